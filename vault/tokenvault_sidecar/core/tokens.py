"""Handing out tokens, and forgetting them: the use-cases GetToken and Invalidate."""

from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from tokenvault_sidecar.core import lifecycle
from tokenvault_sidecar.core.errors import (
    ConsentRequired,
    GrantNotFound,
    PolicyDenied,
    ScopeNotGranted,
    ServerMisconfigured,
    ServerUnavailable,
    SessionEnded,
    StoreUnavailable,
)
from tokenvault_sidecar.core.lifecycle import Decision
from tokenvault_sidecar.core.model import Context, Grant, Secret
from tokenvault_sidecar.core.ports import GrantRow
from tokenvault_sidecar.core.renewal import Renewer
from tokenvault_sidecar.core.revocation import Revoker
from tokenvault_sidecar.core.vault import Vault


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What GetToken asks for. `min_ttl` in seconds; `releasable`: scopes the caller may see, None any."""

    brand: str
    context: Context
    scopes: tuple[str, ...] = ()
    min_ttl: float = 0.0
    rejected_version: str | None = None
    include_id_token: bool = False
    keeps_session_alive: bool = False
    releasable: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A valid access token. `expires_at` None: unknown, use it until rejected."""

    access_token: Secret
    token_type: str
    expires_at: float | None
    scopes: tuple[str, ...]
    version: str
    id_token: Secret | None
    degraded: bool


class Revocation(StrEnum):
    """What becomes of a forgotten grant's tokens at the authorization server."""

    NOT_FOUND = "NOT_FOUND"
    QUEUED = "QUEUED"
    NOT_SUPPORTED = "NOT_SUPPORTED"


class Tokens:
    """The grants' tokens, for callers that policy has let through."""

    def __init__(self, vault: Vault, renewer: Renewer, revoker: Revoker) -> None:
        self._vault = vault
        self._renewer = renewer
        self._revoker = revoker

    async def get(self, request: TokenRequest) -> IssuedToken:
        """A valid token of the context's grant, renewed first where it must be.

        Raises InvalidRequest (no such brand), GrantNotFound, ConsentRequired,
        SessionEnded, ScopeNotGranted, PolicyDenied (the token has scopes the
        caller may not see), ServerUnavailable, ServerMisconfigured,
        StoreUnavailable.
        """
        brand = self._vault.brand(request.brand, request.context.kind)
        key = self._vault.context_key(brand.id, request.context)
        stored = await self._vault.grant(key)
        if stored is None:
            raise GrantNotFound(
                f"brand {brand.id!r} has no grant for this {request.context.kind}: challenge the consumer"
            )
        row, grant = stored
        _check_scopes(grant, request)
        now = self._vault.clock()
        rejected = request.rejected_version == row.version
        match lifecycle.decide(
            grant, min_ttl=request.min_ttl, rejected=rejected, margin=brand.renewal_margin, now=now
        ):
            case Decision.SESSION_ENDED:
                raise SessionEnded(
                    f"the consumer's session with brand {brand.id!r} is over: challenge the consumer"
                )
            case Decision.CONSENT_REQUIRED:
                raise ConsentRequired(
                    f"the access token for brand {brand.id!r} is over and cannot be renewed: "
                    "challenge the consumer"
                )
            case Decision.RENEW:
                return await self._renewed(request, key, grant, rejected=rejected)
            case Decision.SERVE_AND_RENEW:
                self._renew_soon(row, now)
        if request.keeps_session_alive:
            self._keep_alive(key, grant, now)
        return _issue(grant, request, now)

    async def invalidate(self, brand_id: str, context: Context) -> Revocation:
        """Forget the context, durably; its tokens are revoked afterwards.

        Raises InvalidRequest (no such brand), StoreUnavailable.
        """
        brand = self._vault.brand(brand_id)
        if not await self._revoker.forget_context(self._vault.context_key(brand.id, context)):
            return Revocation.NOT_FOUND
        server = self._vault.servers.get(brand.id)
        facts = server.facts if server else None
        return Revocation.NOT_SUPPORTED if facts and not facts.revokes else Revocation.QUEUED

    async def _renewed(
        self, request: TokenRequest, key: bytes, grant: Grant, *, rejected: bool
    ) -> IssuedToken:
        try:
            renewed = await self._renewer.renew(key, grant.tokens.version, rejected=rejected)
        except (ServerUnavailable, ServerMisconfigured, StoreUnavailable):
            now = self._vault.clock()
            if rejected or not lifecycle.is_valid(grant, now):
                raise
            row = await self._vault.store.get_grant(key)
            if row is None or row.version != grant.tokens.version:
                raise  # forgotten or replaced while it was waited for
            if request.keeps_session_alive:
                self._keep_alive(key, grant, now)
            return _issue(grant, request, now, degraded=True)
        now = self._vault.clock()
        if not lifecycle.is_valid(renewed, now):
            raise ServerUnavailable(
                f"the authorization server of brand {renewed.brand!r} issued a token that is over already: "
                "ask again, and check its clock and token lifetime",
                retry_after=1.0,
            )
        _check_scopes(renewed, request)
        if request.keeps_session_alive:
            self._keep_alive(key, renewed, now)
        return _issue(renewed, request, now)

    def _renew_soon(self, row: GrantRow, now: float) -> None:
        redeem = lifecycle.may_redeem(row.attempt, token_over=False, now=now)
        if not row.attempt.leased and not redeem.wait and not self._vault.gate(row.brand).is_open:
            self._renewer.renew_soon(row.key, row.version)

    def _keep_alive(self, key: bytes, grant: Grant, now: float) -> None:
        if lifecycle.keeps_alive(grant, now) is not None:
            used = self._vault.update(key, grant.tokens.version, partial(lifecycle.keeps_alive, now=now))
            self._vault.background.spawn(used, "keep-alive")


def _check_scopes(grant: Grant, request: TokenRequest) -> None:
    granted = frozenset(grant.tokens.scopes)
    if request.releasable is not None and not granted <= request.releasable:
        raise PolicyDenied("the token has scopes that the caller's policy does not let it see")
    missing = [s for s in request.scopes if s not in granted]
    if missing:
        raise ScopeNotGranted(
            f"brand {grant.brand!r}: not granted: {' '.join(missing)}: "
            "ask for less, or challenge the consumer for more"
        )


def _issue(grant: Grant, request: TokenRequest, now: float, *, degraded: bool = False) -> IssuedToken:
    tokens = grant.tokens
    id_token = tokens.id_token if request.include_id_token else None
    if id_token is not None and (tokens.id_token_expires_at or 0.0) <= now:
        id_token = None
    return IssuedToken(
        access_token=tokens.access_token,
        token_type=tokens.token_type,
        expires_at=grant.usable_until if tokens.expires_at is not None else None,
        scopes=tokens.scopes,
        version=tokens.version,
        id_token=id_token,
        degraded=degraded,
    )
