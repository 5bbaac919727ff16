"""The use-cases without authorization server or store: what the servicer's tests stand on."""

import asyncio
from collections.abc import AsyncGenerator, Callable

from tokenvault_sidecar.core.challenges import DelegationRequest
from tokenvault_sidecar.core.confirmation import Confirmations
from tokenvault_sidecar.core.consent import Consent
from tokenvault_sidecar.core.delegations import Challenge, Delegations
from tokenvault_sidecar.core.errors import ConfirmationCodeWrong, GrantNotFound, StateNotFound
from tokenvault_sidecar.core.exchange import AuthorizationResponse
from tokenvault_sidecar.core.model import Confirmation, Context, ContextKind, Delegated, Outcome, Secret
from tokenvault_sidecar.core.outcomes import Outcomes
from tokenvault_sidecar.core.tokens import IssuedToken, Revocation, TokenRequest, Tokens

CODE = Secret("01234567")
LINK_EXPIRES_AT = 2_000_000_000.25
TOKEN_EXPIRES_AT = 2_000_000_100.5
SESSION_ENDS_AT = 2_000_000_200.75


def issued(access_token: str = "an access token", **changes: object) -> IssuedToken:
    """A token to keep in FakeTokens."""
    fields: dict[str, object] = {
        "access_token": Secret(access_token),
        "token_type": "Bearer",
        "expires_at": TOKEN_EXPIRES_AT,
        "scopes": ("openid", "orders"),
        "version": "v1",
        "id_token": None,
        "degraded": False,
    }
    return IssuedToken(**{**fields, **changes})  # type: ignore[arg-type]  # tests name the fields


class FakeTokens(Tokens):
    """Gives what is in `kept`, and notes what it was asked. `fails`: raised instead.

    With `hold` it waits for that event, and tells by `entered` and
    `cancelled` what became of the call.
    """

    def __init__(self) -> None:
        self.kept: dict[tuple[str, Context], IssuedToken] = {}
        self.asked: list[TokenRequest] = []
        self.fails: Exception | None = None
        self.hold: asyncio.Event | None = None
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def get(self, request: TokenRequest) -> IssuedToken:
        self.asked.append(request)
        if self.fails is not None:
            raise self.fails
        if self.hold is not None:
            self.entered.set()
            try:
                await self.hold.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        try:
            return self.kept[request.brand, request.context]
        except KeyError:
            raise GrantNotFound(f"brand {request.brand!r} has no grant for this context") from None

    async def invalidate(self, brand_id: str, context: Context) -> Revocation:
        if self.fails is not None:
            raise self.fails
        if self.kept.pop((brand_id, context), None) is None:
            return Revocation.NOT_FOUND
        return Revocation.QUEUED


class FakeDelegations(Delegations):
    """Keeps what was started by its state, "state-1" being the first. `fails`: raised instead."""

    def __init__(self) -> None:
        self.pending: dict[str, DelegationRequest] = {}
        self.started: list[DelegationRequest] = []
        self.completed: list[AuthorizationResponse] = []
        self._told: dict[str, DelegationRequest] = {}
        self.fails: Exception | None = None
        self.confirmation: Confirmation | None = None
        self.outcomes = FakeOutcomes(self)
        self.confirmations = FakeConfirmations(self)

    async def start(self, request: DelegationRequest, *, wish: bytes | None = None) -> Challenge:
        if self.fails is not None:
            raise self.fails
        self.started.append(request)
        number = len(self.started)
        self.pending[f"state-{number}"] = request
        url = Secret(f"https://as.example/authorize?state=state-{number}")
        return Challenge(f"delegation-{number}", url, LINK_EXPIRES_AT)

    async def complete(
        self,
        response: AuthorizationResponse,
        *,
        caller: str,
        permit: Callable[[str, Context], None],
    ) -> Delegated:
        if self.fails is not None:
            raise self.fails
        started = self.pending.get(response.state.reveal())
        if started is None or started.caller != caller:
            raise StateNotFound("the state is unknown")
        permit(started.brand, started.context)
        self._told[response.state.reveal()] = self.pending.pop(response.state.reveal())
        self.completed.append(response)
        consumer = started.context.kind is ContextKind.CONSUMER
        return Delegated(
            brand=started.brand,
            context=started.context,
            scopes=started.scopes,
            subject="somebody" if consumer else None,
            access_token_expires_at=TOKEN_EXPIRES_AT,
            session_ends_at=SESSION_ENDS_AT if consumer else None,
            confirmation=self.confirmation,
        )

    def not_heard(self, response: AuthorizationResponse, done: Delegated) -> None:
        state = response.state.reveal()
        self.pending[state] = self._told.pop(state)


class FakeConsent(Consent):
    """Starts a new one each time. `fails`: raised instead."""

    def __init__(self, delegations: FakeDelegations) -> None:
        self._delegations = delegations
        self.fails: Exception | None = None

    async def challenge(self, request: DelegationRequest) -> Challenge:
        if self.fails is not None:
            raise self.fails
        return await self._delegations.start(request)


class FakeConfirmations(Confirmations):
    """Takes 01234567 for what is pending as "delegation-1" and so on."""

    def __init__(self, delegations: FakeDelegations) -> None:
        self._delegations = delegations

    async def confirm(
        self, delegation_id: str, code: Secret, *, caller: str, permit: Callable[[str, Context], None]
    ) -> Delegated:
        state = delegation_id.replace("delegation", "state")
        started = self._delegations.pending.get(state)
        if started is None or started.caller != caller:
            raise StateNotFound("the delegation is unknown")
        permit(started.brand, started.context)
        if code != CODE:
            raise ConfirmationCodeWrong("it is another", tries_left=3)
        response = AuthorizationResponse(Secret(state), Secret("a code"))
        return await self._delegations.complete(response, caller=caller, permit=permit)


class FakeOutcomes(Outcomes):
    """Knows what is pending as "delegation-1" and so on, and tells that once."""

    def __init__(self, delegations: FakeDelegations) -> None:
        self._delegations = delegations

    async def watch(
        self, delegation_id: str, *, caller: str, permit: Callable[[str, Context], None]
    ) -> AsyncGenerator[Outcome, None]:
        started = self._delegations.pending.get(delegation_id.replace("delegation", "state"))
        if started is None or started.caller != caller:
            raise StateNotFound("the delegation is unknown")
        permit(started.brand, started.context)
        yield Outcome(delegation_id, b"", started.brand, started.context, caller, LINK_EXPIRES_AT)
