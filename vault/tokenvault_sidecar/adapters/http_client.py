"""One bounded HTTP request, and how it ended.

Whether a request was sent decides whether asking again is safe. The
transport's exceptions don't tell, so its trace does: what fails before the
first byte of the request was never sent. No exception leaves `send`: those of
the transport hold the request, and with it secrets.

The connections are httpx2's; sending is not left to Authlib's client, which
reads answers without limit, tells neither status nor Retry-After, and keeps
the last token where all consumers of a brand share it.
"""

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from functools import cache, partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path

import httpx2

from tokenvault_sidecar.core.tracing import current_span

# Kept for less than servers do (5 s is common): who sends on a connection that is just being
# closed cannot know whether the request was acted on.
_CONNECTIONS = httpx2.Limits(max_connections=50, max_keepalive_connections=20, keepalive_expiry=1.0)
_LONGEST_WAIT = 3600.0


class Miss(Enum):
    """There is no answer."""

    UNSENT = auto()
    """Nothing was sent: no connection, no TLS session, or no free place in the pool."""
    UNTRUSTED = auto()
    """Nothing was sent: the server's certificate was not accepted."""
    LOST = auto()
    """The request was sent, at least in part, and no answer came."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers, and the body: None where it was cut off or too large."""

    status: int
    headers: httpx2.Headers = field(repr=False)
    body: bytes | None = field(repr=False)

    def json_object(self) -> Mapping[str, object] | None:
        """The body as a JSON object, None where it is none."""
        if self.body is None:
            return None
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def retry_after(self, now: float) -> float | None:
        """Seconds to wait from `now`, an hour at most (RFC 9110 section 10.2.3); None: not said."""
        value = self.headers.get("Retry-After", "").strip()
        if value.isascii() and value.isdigit():
            return min(float(value), _LONGEST_WAIT)
        try:
            moment = parsedate_to_datetime(value).timestamp()
        except (ValueError, OverflowError):
            return None
        return min(max(moment - now, 0.0), _LONGEST_WAIT)


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Trust the certificates in `ca_file`, else the system's. Raises ValueError."""
    if ca_file is None:
        return _system_trust()
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError:  # ssl.SSLError is one
        raise ValueError(f"ca_file {ca_file}: not a readable PEM file of certificates") from None


@cache
def _system_trust() -> ssl.SSLContext:
    # Some hundred certificates: read once, not once a brand.
    return ssl.create_default_context()


class Client(httpx2.AsyncClient):
    """A connection pool, and whose it is."""

    brand: str | None = None


def new_client(ca_file: Path | None, *, deadline: float, brand: str | None = None) -> Client:
    """A connection pool: no redirects followed, no cookies kept, no proxy or netrc of the environment.

    `deadline` is the longest a call takes, in seconds; `brand` is for traces.
    """
    client = Client(
        verify=tls_context(ca_file),
        # Connecting has to fail by the transport's own timeout: it leaves the socket open where
        # it is cancelled in the midst of a handshake.
        timeout=httpx2.Timeout(deadline, pool=deadline / 4, connect=deadline / 4),
        limits=_CONNECTIONS,
        follow_redirects=False,
        trust_env=False,
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
        # Not compressed: the limit on a body's size is then one on memory.
        headers={
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "tokenvault-sidecar",
        },
    )
    client.brand = brand
    return client


async def send(
    client: Client,
    method: str,
    url: str,
    *,
    until: float,
    limit: int,
    send_by: float | None = None,
    headers: Mapping[str, str] | None = None,
    form: str | None = None,
) -> Answer | Miss:
    """Send a request, `form` its encoded body, and read at most `limit` bytes of its answer.

    Both times are the event loop's: `until` for the whole, and after `send_by`
    nothing is sent any more, so that no request goes out that leaves no time
    for its answer. A step of the trace under way, where there is one.
    """
    request = partial(_send, client, method, url, until=until, limit=limit, send_by=send_by, form=form)
    call = current_span.get()
    if call is None:
        return await request(headers=headers)
    span = call.request(method, url, client.brand)
    answer: Answer | Miss | None = None
    try:
        answer = await request(headers={**(headers or {}), **span.headers})
        return answer
    finally:
        match answer:
            case Answer(status=status):
                span.end(status, None)
            case Miss():
                span.end(None, answer.name.lower())
            case None:
                span.end(None, "cancelled")


async def _send(
    client: Client,
    method: str,
    url: str,
    *,
    until: float,
    limit: int,
    send_by: float | None,
    headers: Mapping[str, str] | None,
    form: str | None,
) -> Answer | Miss:
    now = asyncio.get_running_loop().time
    kind = {} if form is None else {"Content-Type": "application/x-www-form-urlencoded"}
    given = {**kind, **(headers or {})}
    sent = False
    head: httpx2.Response | None = None
    body = bytearray()

    async def trace(event: str, _: Mapping[str, object]) -> None:
        nonlocal sent
        if event == "http11.send_request_headers.started":
            if send_by is not None and now() > send_by:
                raise TimeoutError
            sent = True

    try:
        async with (
            asyncio.timeout_at(until),
            client.stream(method, url, content=form, headers=given, extensions={"trace": trace}) as response,
        ):
            head = response
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > limit:
                    return Answer(head.status_code, head.headers, None)
            return Answer(head.status_code, head.headers, bytes(body))
    except (TimeoutError, httpx2.TransportError) as error:
        if head is not None:
            return Answer(head.status_code, head.headers, None)
        if sent:
            return Miss.LOST
        return Miss.UNTRUSTED if _is_about_trust(error) else Miss.UNSENT


def _is_about_trust(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
