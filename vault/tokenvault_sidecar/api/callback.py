"""Where authorization servers send consumers back to: completes the delegation, and shows how it ended.

The state is the proof: who has it acts in the name of the caller that started
the delegation. It is looked at before anybody is asked, and it must be of the
brand in the path. Nothing that arrives here is shown, logged or kept.

Where the brand has consumers confirm, the page shows the code once, to who
brought the response. Only its hash is kept: who reloads the page, or comes
back to it, sees that the link is used, and asks for a new one. But a page that
could not tell yet what came of the login is to be reloaded, until it can; and
one that no browser waits for any more is shown to the next.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault_sidecar.api import requests
from tokenvault_sidecar.api.calls import CallUnderWay, Record
from tokenvault_sidecar.api.defects import log_defect
from tokenvault_sidecar.api.pages import Look, page
from tokenvault_sidecar.api.words import Face, language_for
from tokenvault_sidecar.core.delegations import Delegations
from tokenvault_sidecar.core.errors import (
    AnswerLost,
    AuthorizationDenied,
    InvalidRequest,
    Reason,
    ServerUnavailable,
    StateNotFound,
    StoreUnavailable,
    VaultError,
)
from tokenvault_sidecar.core.model import Delegated, Delegation, Outcome
from tokenvault_sidecar.core.policy import Call, Policy, Rpc
from tokenvault_sidecar.core.tracing import BeginCall, current_span
from tokenvault_sidecar.http_server import Bounds

NAME: Final = "Callback"
"""What a consumer's return is called in the audit log, where calls have their RPC's name."""

BOUNDS: Final = Bounds(connections=512, longest_head=16 * 1024, longest_stop=5, to_ask=5.0, to_be_done=30.0)
"""What this port takes."""

_log = structlog.get_logger()

MAX_BODY: Final = 16 * 1024
_BODY_SECONDS: Final = 5.0
_FORM: Final = "application/x-www-form-urlencoded"
_PARAMETERS: Final = frozenset({"state", "code", "iss", "error"})
_STATUS: Final = {
    Face.DONE: 200,
    Face.CODE: 200,
    Face.DECLINED: 200,
    Face.USED: 404,
    Face.WAIT: 503,
    Face.WRONG: 400,
}
_HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "x-robots-tag": "noindex",
}
"""Of every answer. No Cross-Origin-Opener-Policy: it would cut the pop-up off, which then could not close."""


class Callback:
    """`looks` are those of the configured brands, by id; both they and the policy may be replaced."""

    def __init__(
        self,
        delegations: Delegations,
        policy: Callable[[], Policy],
        looks: Mapping[str, Look],
        *,
        record: Record | None = None,
        trace: BeginCall | None = None,
    ) -> None:
        self._delegations = delegations
        self._policy = policy
        self._record = record
        self._trace = trace
        self.looks = looks

    def app(self, path: str, *, https: bool) -> ASGIApp:
        """The web application; `path` has "{brand}" in it. `https`: whether it ends TLS itself."""
        headers = _HEADERS | ({"strict-transport-security": "max-age=31536000"} if https else {})
        route = Route(path, self.answer, methods=["GET", "POST"])
        return _with_headers(Router([route], redirect_slashes=False), headers)

    async def answer(self, request: Request) -> Response:
        """The page for a consumer who came back with this request."""
        if request.method == "HEAD":  # who looks without showing anything shall use nothing up
            return Response(status_code=405, headers={"allow": "GET, POST"})
        brand = request.path_params["brand"]
        look = self.looks.get(brand)
        if look is None:
            return Response(status_code=404)
        language = language_for(request.headers.get("accept-language", ""))
        face, done = await self._complete(brand, request)
        shown = page(look, face, language, done)
        return Response(
            shown.html,
            status_code=_STATUS[face],
            media_type="text/html",
            headers={"content-language": language, "content-security-policy": shown.policy},
        )

    async def _complete(self, brand: str, request: Request) -> tuple[Face, Delegated | None]:
        call = CallUnderWay(NAME)
        if self._trace is not None:
            call.span = self._trace(NAME, ())  # a browser's own trace is not its caller's
            current_span.set(call.span)

        def permit(delegation: Delegation | Outcome) -> None:
            policy = self._policy()
            call.caller = policy.named(delegation.caller)
            call.brand, call.context = delegation.brand, delegation.context
            policy.check(call.caller, Call(Rpc.START_DELEGATION, delegation.brand, delegation.context.kind))

        try:
            answer = requests.authorization_response(await _parameters(request))
            leaving = asyncio.create_task(_leave(request))
            try:
                done = await self._delegations.returned(answer, brand=brand, permit=permit)
                if leaving.done():
                    self._delegations.not_heard(answer, done)
            finally:
                leaving.cancel()
            locked = done.confirmation is not None
            self._note(call, Reason.CONFIRMATION_REQUIRED.value if locked else "OK")
            return Face.CODE if locked else Face.DONE, done
        except VaultError as error:
            self._note(call, error.reason.value)
            return _face(error), None
        except Exception as error:
            log_defect(NAME, call, error)
            self._note(call, VaultError.reason.value)
            return Face.WRONG, None

    def _note(self, call: CallUnderWay, outcome: str) -> None:
        """Only of delegations there are: strangers shall not fill the log. A page releases nothing."""
        if call.caller is None:
            return
        call.end_span(outcome)
        if self._record is None:
            return
        try:
            self._record(call, outcome)
        except VaultError as unrecorded:
            _log.error("call_unrecorded", outcome=outcome, problem=unrecorded.message)


def _face(error: VaultError) -> Face:
    if isinstance(error, AuthorizationDenied):
        return Face.DECLINED
    if isinstance(error, StateNotFound | InvalidRequest):
        return Face.USED
    if isinstance(error, StoreUnavailable | ServerUnavailable) and not isinstance(error, AnswerLost):
        return Face.WAIT
    return Face.WRONG


async def _leave(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _parameters(request: Request) -> pb.CompleteDelegationRequest:
    """What came, in the query or by form_post (OAuth 2.0 Form Post Response Mode). Raises InvalidRequest."""
    if request.method == "GET":
        text = request.scope["query_string"]
    elif request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise InvalidRequest("request", "is no form")
    else:
        text = await _body(request)
    try:
        pairs = parse_qsl(text.decode("ascii"), keep_blank_values=True, max_num_fields=32)
    except ValueError:
        raise InvalidRequest("request", "holds no parameters") from None
    found = [(name, value) for name, value in pairs if name in _PARAMETERS and value]
    if len({name for name, _ in found}) != len(found):  # RFC 6749 section 3.1
        raise InvalidRequest("request", "holds a parameter twice")
    return pb.CompleteDelegationRequest(**dict(found))


async def _body(request: Request) -> bytes:
    body = b""
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY:
                    raise InvalidRequest("request", "is too long")
    except (TimeoutError, ClientDisconnect):
        raise InvalidRequest("request", "does not come") from None
    return body


def _with_headers(app: ASGIApp, headers: Mapping[str, str]) -> ASGIApp:
    """Every answer has them; the page's own policy goes before the common one."""
    common: list[Any] = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(h for h in common if h[0] not in own)]
            await send(message)

        await app(scope, receive, send_with_headers)

    return answer
