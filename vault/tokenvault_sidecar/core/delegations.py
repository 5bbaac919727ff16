"""Challenging a consumer: the use-cases StartDelegation and CompleteDelegation."""

import asyncio
import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from tokenvault_sidecar.core import challenges, responses
from tokenvault_sidecar.core.challenges import DelegationRequest
from tokenvault_sidecar.core.confirmation import Confirmations
from tokenvault_sidecar.core.errors import (
    AnswerLost,
    AuthorizationDenied,
    CodeRejected,
    DelegationFailed,
    InvalidGrant,
    InvalidIdToken,
    IssuerMismatch,
    ServerMisconfigured,
    ServerUnavailable,
    SubjectMismatch,
    VaultError,
)
from tokenvault_sidecar.core.keeping import Keeping, delegated, state_not_found
from tokenvault_sidecar.core.model import (
    Brand,
    Context,
    ContextKind,
    Delegated,
    Delegation,
    Grant,
    Secret,
    Session,
    TokenSet,
)
from tokenvault_sidecar.core.outcomes import Outcomes
from tokenvault_sidecar.core.ports import (
    AuthorizationRequest,
    AuthorizationServer,
    Completion,
    DelegationRow,
    ServerFacts,
    TokenAnswer,
)
from tokenvault_sidecar.core.revocation import Revoker
from tokenvault_sidecar.core.vault import Vault

_REGISTERED_ERRORS = frozenset(
    {
        # RFC 6749 section 4.1.2.1
        "invalid_request",
        "unauthorized_client",
        "access_denied",
        "unsupported_response_type",
        "invalid_scope",
        "server_error",
        "temporarily_unavailable",
        # OpenID Connect Core section 3.1.2.6
        "interaction_required",
        "login_required",
        "account_selection_required",
        "consent_required",
    }
)


@dataclass(frozen=True, slots=True)
class Challenge:
    """A link for the consumer's browser. It holds the state, so it is a secret of theirs."""

    delegation_id: str
    authorization_url: Secret
    expires_at: float


@dataclass(frozen=True, slots=True)
class AuthorizationResponse:
    """What came back to the redirect URI (RFC 6749 section 4.1.2): a code or an error."""

    state: Secret
    code: Secret | None = None
    iss: str | None = None
    error: str | None = None


class Delegations:
    """Pending challenges, from their start to the grant they leave."""

    def __init__(self, vault: Vault, revoker: Revoker) -> None:
        self._vault = vault
        self._revoker = revoker
        self.outcomes = Outcomes(vault)
        self._keeping = Keeping(vault)
        self.confirmations = Confirmations(vault, revoker, self._keeping, self.outcomes)

    async def start(self, request: DelegationRequest, *, wish: bytes | None = None) -> Challenge:
        """A new challenge. With `wish` its link is kept, to be given again to who has the same.

        Raises InvalidRequest, ServerUnavailable, ServerMisconfigured, StoreUnavailable.
        """
        brand = self._vault.brand(request.brand, request.context.kind)
        delegation = Delegation(
            id=self._vault.new_id(),
            brand=brand.id,
            context=request.context,
            caller=request.caller,
            redirect_uri=challenges.redirect_uri(brand, request),
            scopes=challenges.scopes(brand, request),
            nonce=Secret(self._vault.new_secret()),
            code_verifier=Secret(self._vault.new_secret()),
            expires_at=self._vault.clock() + brand.delegation_lifetime,
            expected_subject=request.expected_subject,
        )
        state = Secret(self._vault.new_secret())
        authorization = AuthorizationRequest(
            redirect_uri=delegation.redirect_uri,
            scopes=delegation.scopes,
            state=state,
            nonce=delegation.nonce,
            code_challenge=code_challenge(delegation.code_verifier),
            parameters=challenges.parameters(brand, request),
        )
        server = self._vault.servers[brand.id]
        await server.prepare()
        url = Secret(await server.authorization_url(authorization))
        row = self._vault.sealer.seal_delegation(state, delegation)
        kept = url if wish else None
        outcome = self.outcomes.pending(row.key, delegation, link=kept, wish=wish)
        await self._vault.store.put_delegation(row, outcome)
        return Challenge(delegation.id, url, delegation.expires_at)

    async def complete(
        self,
        response: AuthorizationResponse,
        *,
        caller: str,
        permit: Callable[[str, Context], None],
    ) -> Delegated:
        """Use up the state, exchange the code, keep the tokens: where the brand's consumers confirm, locked.

        A caller that goes away leaves it to go on.

        `permit` is asked with the delegation's brand and context, and raises
        PolicyDenied. Raises DelegationFailed in all its kinds,
        ServerUnavailable, ServerMisconfigured, StoreUnavailable: then nothing
        is stored. After ServerUnavailable the same response may be tried
        again where the state is still known: where the code was not used.
        """

        def check(delegation: Delegation) -> None:
            if delegation.caller != caller:
                raise state_not_found()
            permit(delegation.brand, delegation.context)

        return await self._go_on(response, check)

    async def returned(
        self, response: AuthorizationResponse, *, brand: str, permit: Callable[[Delegation], None]
    ) -> Delegated:
        """As `complete`, for a consumer who came back to the sidecar itself.

        The state is the proof, and acts in the name of the caller that
        started the delegation; it must be of this brand. `permit` raises
        UnknownCaller and PolicyDenied where that caller may not do so now.
        """

        def check(delegation: Delegation) -> None:
            if delegation.brand != brand:
                raise state_not_found()
            permit(delegation)

        return await self._go_on(response, check)

    async def _go_on(self, response: AuthorizationResponse, check: Callable[[Delegation], None]) -> Delegated:
        """Complete it, whether or not who asked for it stays."""
        task = self._vault.background.spawn(self._complete(response, check), "delegation")
        return await asyncio.shield(task)

    async def _complete(
        self, response: AuthorizationResponse, check: Callable[[Delegation], None]
    ) -> Delegated:
        row = await self._vault.store.get_delegation(self._vault.sealer.state_key(response.state))
        if row is None:
            raise state_not_found()
        delegation = await self._vault.open_delegation(row)
        brand = self._vault.brands.get(delegation.brand)
        if brand is None or delegation.expires_at <= self._vault.clock():
            raise state_not_found()
        check(delegation)
        self._vault.brand(brand.id, delegation.context.kind)
        server = self._vault.servers[brand.id]
        facts = await server.prepare(keys=_logs_in(delegation))
        if not await self._vault.store.take_delegation(row.key):
            raise state_not_found()
        try:
            done = await self._redeem(response, delegation, row, brand, server, facts)
        except VaultError as error:
            self._vault.events("delegation", brand=brand.id, outcome=error.reason.value.lower())
            if not isinstance(error, _GivenBack):  # who tries it again notes what comes of that
                await self.outcomes.failed(row.key, delegation, error)
            raise
        self.outcomes.wake(delegation.id)
        if done.confirmation is None:
            self._vault.events("delegation", brand=brand.id, outcome="completed")
        return done

    async def _redeem(
        self,
        response: AuthorizationResponse,
        delegation: Delegation,
        row: DelegationRow,
        brand: Brand,
        server: AuthorizationServer,
        facts: ServerFacts,
    ) -> Delegated:
        _check_issuer(brand, facts, response.iss)
        if response.code is None:
            raise _denied(brand, response.error)
        answer = await self._exchange(response.code, delegation, row, server)
        try:
            tokens = responses.read_exchange(
                answer, version=self._vault.new_id(), scopes=delegation.scopes, now=self._vault.clock()
            )
        except responses.UnusableAnswer as unusable:
            raise CodeRejected(
                f"the token response of brand {brand.id!r} is not usable: {unusable}; nothing was stored"
            ) from None
        if delegation.context.kind is ContextKind.CONSUMER:
            grant = await self._consumer_grant(brand, delegation, tokens, server)
        else:
            grant = self._conversation_grant(brand, tokens)
        return await self._keep(row.key, delegation, grant, brand)

    async def _exchange(
        self, code: Secret, delegation: Delegation, row: DelegationRow, server: AuthorizationServer
    ) -> TokenAnswer:
        try:
            async with self._vault.gate(delegation.brand).request():
                return await server.exchange(
                    code, redirect_uri=delegation.redirect_uri, code_verifier=delegation.code_verifier
                )
        except InvalidGrant:
            raise CodeRejected(
                f"the authorization server of brand {delegation.brand!r} refused the code: "
                "it is wrong, used or expired; start a new delegation"
            ) from None
        except AnswerLost:
            raise
        except ServerUnavailable as error:
            await self._vault.store.give_back_delegation(row.key)
            raise _GivenBack(error.message, retry_after=error.retry_after) from None

    def _conversation_grant(self, brand: Brand, tokens: TokenSet) -> Grant:
        """The access token alone: the refresh token is ignored, and so is the id token."""
        lifetime = brand.contexts[ContextKind.CONVERSATION].max_lifetime
        return Grant(
            brand=brand.id,
            kind=ContextKind.CONVERSATION,
            family=self._vault.new_id(),
            tokens=replace(tokens, refresh_token=None, id_token=None),
            ends_at=tokens.issued_at + lifetime,
        )

    async def _consumer_grant(
        self, brand: Brand, delegation: Delegation, tokens: TokenSet, server: AuthorizationServer
    ) -> Grant:
        settings = brand.contexts[ContextKind.CONSUMER]
        now = tokens.issued_at
        grant = Grant(
            brand=brand.id,
            kind=ContextKind.CONSUMER,
            family=self._vault.new_id(),
            tokens=tokens,
            session=Session(now + settings.session_absolute, settings.session_idle, now),
        )
        if not _logs_in(delegation):
            return replace(grant, tokens=replace(tokens, id_token=None))
        try:
            if tokens.id_token is None:
                raise InvalidIdToken(f"brand {brand.id!r} sent no id token although openid was asked for")
            claims = await server.verify_id_token(tokens.id_token, nonce=delegation.nonce, now=now)
            if delegation.expected_subject not in (None, claims.subject):
                raise SubjectMismatch(
                    f"somebody else than expected logged in to brand {brand.id!r}: nothing was stored"
                )
        except (DelegationFailed, ServerUnavailable, ServerMisconfigured):
            await self._revoker.queue(grant, refresh_token=True)
            raise
        return replace(
            grant,
            subject=claims.subject,
            tokens=replace(tokens, id_token_expires_at=claims.expires_at),
        )

    async def _keep(self, taken: bytes, delegation: Delegation, grant: Grant, brand: Brand) -> Delegated:
        """Store the grant, or where the brand's consumers confirm, lock it."""
        done = delegated(delegation.context, grant)
        try:
            if brand.confirms:
                confirmation = await self.confirmations.hold(taken, delegation, grant, brand)
                return replace(done, confirmation=confirmation)
            completion = Completion(taken, self.outcomes.completed(taken, delegation, done))

            async def store() -> None:
                if not await self._keeping.keep(delegation.context, grant, completion):
                    raise state_not_found()

            await self._keeping.patiently(brand.id, store)
        except DelegationFailed:
            await self._revoker.queue(grant, refresh_token=True)
            raise
        return done


class _GivenBack(ServerUnavailable):
    """The code was not used: the same response may be tried again."""


def code_challenge(verifier: Secret) -> str:
    """The S256 code challenge (RFC 7636 section 4.2)."""
    digest = hashlib.sha256(verifier.reveal().encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _logs_in(delegation: Delegation) -> bool:
    """Whether an id token is due, and is looked at."""
    return delegation.context.kind is ContextKind.CONSUMER and challenges.OPENID in delegation.scopes


def _check_issuer(brand: Brand, facts: ServerFacts, iss: str | None) -> None:
    """RFC 9207 section 2.4: checked when sent, required where the server says it sends it."""
    if iss is None and facts.sends_iss:
        raise IssuerMismatch(f"the authorization response for brand {brand.id!r} lacks the iss it must have")
    if iss is not None and iss != facts.issuer:
        raise IssuerMismatch(f"the authorization response for brand {brand.id!r} came from another issuer")


def _denied(brand: Brand, error: str | None) -> AuthorizationDenied:
    name = error if error in _REGISTERED_ERRORS else "an unregistered error"
    return AuthorizationDenied(
        f"brand {brand.id!r} answered {name}: the consumer declined, or may not delegate"
    )
