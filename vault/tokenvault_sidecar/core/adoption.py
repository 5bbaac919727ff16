"""What an authorization server answered to a redemption, made durable before anything else is looked at.

Only the lease that asked writes, and only on the version it redeemed: a late
answer is revoked, never written. What cannot be stored now is kept and tried
until it can: tokens, refusals and failures alike.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from tokenvault_sidecar.core import lifecycle, responses
from tokenvault_sidecar.core.errors import (
    AnswerLost,
    ConsentRequired,
    GrantNotFound,
    InvalidIdToken,
    ServerMisconfigured,
    ServerUnavailable,
    StoreUnavailable,
    VaultError,
)
from tokenvault_sidecar.core.model import Grant, TokenSet
from tokenvault_sidecar.core.ports import GrantRow, TokenAnswer
from tokenvault_sidecar.core.revocation import Revoker
from tokenvault_sidecar.core.vault import Vault

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Redemption:
    """One redemption under way: the row as it was before the lease, its grant, and the lease's name.

    `rejected`: the brand's API refuses the access token. `until` is when the
    answer must be there, on the event loop's clock.
    """

    row: GrantRow
    grant: Grant
    owner: str
    rejected: bool
    until: float


class Adoption:
    """Writes down what came of redemptions."""

    def __init__(self, vault: Vault, revoker: Revoker) -> None:
        self._vault = vault
        self._revoker = revoker

    async def adopt(self, redemption: Redemption, tokens: TokenSet) -> Grant:
        """Store the new tokens: they are all there is of this grant."""
        row, renewed = redemption.row, replace(redemption.grant, tokens=tokens)

        async def adopt() -> Grant | GrantRow | None:
            current = await self._vault.store.get_grant(row.key)
            if current is None or current.version != row.version:
                return current
            grant = renewed
            if current.sealed != row.sealed:  # reads have kept the session alive meanwhile
                grant = replace(renewed, session=(await self._vault.open_grant(current)).session)
            new = self._vault.row(row.key, grant)
            stored = await self._vault.store.put_grant(new, replaces=row.version, owner=redemption.owner)
            return grant if stored else current

        adopted = await self._insist(adopt, row.brand)
        if not isinstance(adopted, Grant):
            return await self._late(redemption, renewed, adopted)
        self._vault.events("renewal", brand=row.brand, outcome="renewed")
        return adopted

    async def _insist(self, write: Callable[[], Awaitable[T]], brand: str) -> T:
        return await self._vault.insist(write, event="renewal_unsaved", brand=brand)

    async def _late(self, redemption: Redemption, renewed: Grant, current: GrantRow | None) -> Grant:
        """An answer nobody waits for any more: revoked, never written.

        But for one of the same family as the stored tokens: revoking either of
        its tokens may end all that descends from the delegation (RFC 7009
        section 2.1), a peer's good tokens with it.
        """
        self._vault.events("renewal", brand=renewed.brand, outcome="late")
        if current is None:
            await self._insist(partial(self._revoker.queue, renewed, refresh_token=True), renewed.brand)
            raise _invalidated()
        stored = await self._vault.open_grant(current)
        if stored.family != renewed.family:
            await self._insist(partial(self._revoker.queue, renewed, refresh_token=False), renewed.brand)
        if current.version == redemption.row.version:
            raise _taken_over()
        return stored

    async def refused(self, redemption: Redemption) -> Grant:
        """invalid_grant: a peer may have won; else the refresh token is dead and never sent again.

        Refused when it may have been redeemed before, it was a replay to the
        server, which has revoked the access token as well (RFC 9700 section
        4.14.2); one that the brand's API refuses is over too.
        """
        row = redemption.row
        dead = row.attempt.unanswered > 0 or redemption.rejected
        if await self._insist(partial(self._end, row, dead=dead, owner=redemption.owner), row.brand):
            self._vault.events("renewal", brand=row.brand, outcome="refused")
            raise consent(row.brand, "refused the refresh token")
        current = await self._insist(partial(self._vault.store.get_grant, row.key), row.brand)
        if current is None:
            raise _invalidated()
        if current.version == row.version:
            raise _taken_over()
        return await self._vault.open_grant(current)

    async def lost(self, row: GrantRow) -> VaultError:
        """Too many answers lost: the refresh token is not to be had any more; the error for the callers."""
        if not await self._end(row, dead=False, owner=None):
            return _taken_over()
        self._vault.events("renewal", brand=row.brand, outcome="lost")
        return consent(row.brand, "did not answer when its refresh token was redeemed")

    async def failed(
        self, redemption: Redemption, error: ServerUnavailable | ServerMisconfigured
    ) -> VaultError:
        """Note a failure that ends nothing; the error for the callers."""
        row, ambiguous = redemption.row, isinstance(error, AnswerLost)
        attempt = lifecycle.after_failure(
            row.attempt,
            reason=error.reason.value,
            ambiguous=ambiguous,
            retry_after=error.retry_after,
            jitter=self._vault.jitter(),
            now=self._vault.clock(),
        )
        release = partial(self._vault.store.release_lease, row.key, owner=redemption.owner, attempt=attempt)
        await self._insist(release, row.brand)
        outcome = "ambiguous" if ambiguous else error.reason.value.lower()
        self._vault.events("renewal", brand=row.brand, outcome=outcome, failures=attempt.failures)
        if attempt.retry_at is not None and isinstance(error, ServerUnavailable):
            error.retry_after = attempt.retry_at - self._vault.clock()
        return error

    async def take_id_token(self, key: bytes, grant: Grant, answer: TokenAnswer) -> Grant:
        """Take over a renewed id token once it is verified. Without one, the old serves until its own end."""
        id_token = responses.id_token(answer)
        if id_token is None or grant.subject is None:
            return grant
        try:
            claims = await self._vault.server(grant.brand).verify_id_token(
                id_token, nonce=None, now=self._vault.clock()
            )
            if claims.subject != grant.subject:
                self._vault.events("renewal", brand=grant.brand, outcome="foreign_subject")
                await self._insist(partial(self._forget, key, grant.tokens.version), grant.brand)
                raise consent(grant.brand, "renewed the grant for another subject")

            def take(stored: Grant) -> Grant:
                tokens = replace(stored.tokens, id_token=id_token, id_token_expires_at=claims.expires_at)
                return replace(stored, tokens=tokens)

            return await self._vault.update(key, grant.tokens.version, take) or grant
        except (InvalidIdToken, ServerUnavailable, ServerMisconfigured, StoreUnavailable) as error:
            self._vault.events("id_token_refused", brand=grant.brand, reason=error.reason.value)
            return grant

    async def _forget(self, key: bytes, version: str) -> None:
        """Forget the grant while it is of this version."""
        row = await self._vault.store.get_grant(key)
        while row is not None and row.version == version and not await self._revoker.forget(row):
            row = await self._vault.store.get_grant(key)

    async def _end(self, row: GrantRow, *, dead: bool, owner: str | None) -> bool:
        """Forget the refresh token; the access token serves while it lives, but where it is `dead`."""
        current = await self._vault.store.get_grant(row.key)
        if current is None or current.version != row.version:
            return False
        grant = await self._vault.open_grant(current)
        tokens = replace(grant.tokens, refresh_token=None)
        if dead:
            tokens = replace(tokens, expires_at=self._vault.clock())
        ended = self._vault.row(row.key, replace(grant, tokens=tokens))
        return await self._vault.store.put_grant(ended, replaces=row.version, owner=owner)


def consent(brand: str, what: str) -> ConsentRequired:
    """The consumer must consent again, for `what` the authorization server did."""
    return ConsentRequired(f"the authorization server of brand {brand!r} {what}: challenge the consumer")


def _invalidated() -> GrantNotFound:
    return GrantNotFound("the grant was invalidated: challenge the consumer")


def _taken_over() -> ServerUnavailable:
    return ServerUnavailable("another sidecar has taken this renewal over: ask again")
