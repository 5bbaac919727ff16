"""What an authorization response is exchanged for: the grant it leads to, not stored yet."""

from dataclasses import dataclass, replace

from tokenvault_sidecar.core import challenges, responses
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
)
from tokenvault_sidecar.core.model import Brand, ContextKind, Delegation, Grant, Secret, Session, TokenSet
from tokenvault_sidecar.core.ports import AuthorizationServer, ServerFacts, TokenAnswer
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
class AuthorizationResponse:
    """What came back to the redirect URI (RFC 6749 section 4.1.2): a code or an error."""

    state: Secret
    code: Secret | None = None
    iss: str | None = None
    error: str | None = None


class CodeUnused(ServerUnavailable):
    """The code was not used: the same response may be shown again."""


class Exchange:
    """Exchanges codes."""

    def __init__(self, vault: Vault, revoker: Revoker) -> None:
        self._vault = vault
        self._revoker = revoker

    async def grant(
        self,
        response: AuthorizationResponse,
        delegation: Delegation,
        brand: Brand,
        server: AuthorizationServer,
        facts: ServerFacts,
    ) -> Grant:
        """The grant of this delegation. `server`'s `facts` are at hand, and its keys for an id token.

        Raises DelegationFailed in all its kinds, CodeUnused, ServerUnavailable, ServerMisconfigured.
        """
        _check_issuer(brand, facts, response.iss)
        if response.code is None:
            raise _denied(brand, response.error)
        answer = await self._exchange(response.code, delegation, server)
        try:
            tokens = responses.read_exchange(
                answer, version=self._vault.new_id(), scopes=delegation.scopes, now=self._vault.clock()
            )
        except responses.UnusableAnswer as unusable:
            raise CodeRejected(
                f"the token response of brand {brand.id!r} is not usable: {unusable}; nothing was stored"
            ) from None
        if delegation.context.kind is ContextKind.CONSUMER:
            return await self._consumer_grant(brand, delegation, tokens, server)
        return self._conversation_grant(brand, tokens)

    async def _exchange(
        self, code: Secret, delegation: Delegation, server: AuthorizationServer
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
            raise CodeUnused(error.message, retry_after=error.retry_after) from None

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
        if not logs_in(delegation):
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
            await self._revoker.revoke_soon(grant)
            raise
        return replace(
            grant,
            subject=claims.subject,
            tokens=replace(tokens, id_token_expires_at=claims.expires_at),
        )


def logs_in(delegation: Delegation) -> bool:
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
