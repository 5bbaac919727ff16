"""Renewal: one redemption per token version, and nothing lost.

    single-flight in the process → lease on the row, durable → redeem in a task
    of its own → commit the answer before anything else → look at the rest

The lease counts the redemption as unanswered before the request is sent, so a
process that dies leaves a record of it. An answer is adopted only by the lease
that asked, on the version it redeemed: a late one is revoked, never written.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from tokenvault_sidecar.core import lifecycle, responses
from tokenvault_sidecar.core.errors import (
    AnswerLost,
    ConsentRequired,
    GrantNotFound,
    InvalidGrant,
    InvalidIdToken,
    ServerMisconfigured,
    ServerUnavailable,
    StoreUnavailable,
    VaultError,
)
from tokenvault_sidecar.core.model import Grant, Secret
from tokenvault_sidecar.core.ports import GrantRow, TokenAnswer
from tokenvault_sidecar.core.revocation import Revoker
from tokenvault_sidecar.core.vault import Vault

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RenewalSettings:
    """Seconds. A lease outlasts the deadline of its redemption; `patience` is a caller's longest wait."""

    deadline: float = 10.0
    lease: float = 30.0
    patience: float = 15.0


@dataclass(frozen=True, slots=True)
class _Redemption:
    """One attempt under way: the row as leased, its grant, and the lease's name."""

    row: GrantRow
    grant: Grant
    owner: str


@dataclass(frozen=True, slots=True)
class _Redeemed:
    """What a redemption left, stored, and the id token that came with it, not verified."""

    key: bytes
    grant: Grant
    id_token: Secret | None = None


class Renewer:
    """Renews consumer grants."""

    def __init__(self, vault: Vault, revoker: Revoker, settings: RenewalSettings) -> None:
        self._vault = vault
        self._revoker = revoker
        self._settings = settings
        self._flights: dict[tuple[bytes, str], asyncio.Task[Grant]] = {}

    async def renew(self, key: bytes, version: str, *, rejected: bool = False) -> Grant:
        """The grant with a token version newer than `version`, renewed by us or by a peer.

        `rejected`: the brand's API refuses the access token, so it counts as
        over. Raises GrantNotFound, ConsentRequired, ServerUnavailable,
        ServerMisconfigured, StoreUnavailable. A caller that goes away, or
        waits no longer, leaves the redemption to go on.
        """
        task = self.renew_soon(key, version, rejected=rejected)
        done, _ = await asyncio.wait({task}, timeout=self._settings.patience)
        if not done:
            raise ServerUnavailable("renewing this token takes longer than usual: ask again", retry_after=1.0)
        return task.result()

    def renew_soon(
        self, key: bytes, version: str, *, rejected: bool = False, background: bool = False
    ) -> asyncio.Task[Grant]:
        """The same, without waiting: the one flight of this token version, started where there is none.

        `background`: nobody waits for it, so that it takes a place that others leave free.
        """
        name = (key, version)
        flight = self._flights.get(name)
        if flight is None:
            work = self._renew(key, version, rejected=rejected, background=background)
            flight = self._vault.background.spawn(work, "renewal")
            self._flights[name] = flight
            flight.add_done_callback(lambda _: self._flights.pop(name, None))
        return flight

    async def _renew(self, key: bytes, version: str, *, rejected: bool, background: bool) -> Grant:
        while True:
            row = await self._vault.store.get_grant(key)
            if row is None:
                raise GrantNotFound("the grant was invalidated: challenge the consumer")
            if row.version != version:
                return self._vault.sealer.open_grant(row)
            if row.attempt.leased:
                await self._peer(row)
                continue
            await self._check(row, rejected=rejected)
            # The slot comes first: a lease is held for one request, not for a queue.
            async with self._vault.gate(row.brand).slot(background=background):
                await self._prepare(row.brand)
                redemption = await self._begin(row, rejected=rejected)
                redeemed = await self._redeem(redemption) if redemption else None
            if redeemed is not None:
                return await self._take_id_token(redeemed)

    async def _peer(self, row: GrantRow) -> None:
        """Wait while another process redeems this version, until its result is there or its lease is over."""
        pause = 0.01
        while True:
            await asyncio.sleep(pause)
            now = await self._vault.store.get_grant(row.key)
            if now is None or now.version != row.version or not now.attempt.leased:
                return
            pause = min(pause * 1.5, 0.2)

    async def _check(self, row: GrantRow, *, rejected: bool) -> Grant:
        """The grant, where its refresh token may be redeemed now; raises where it may not."""
        grant = self._vault.sealer.open_grant(row)
        now = self._vault.clock()
        if lifecycle.renewable(grant, now) is not lifecycle.Renewable.YES:
            raise ConsentRequired(f"brand {row.brand!r}: the grant cannot be renewed: challenge the consumer")
        over = rejected or not lifecycle.is_valid(grant, now)
        redeem = lifecycle.may_redeem(row.attempt, token_over=over, now=now)
        if redeem.lost:
            await self._end(row, grant, owner=None)
            self._vault.events("renewal", brand=row.brand, outcome="lost")
            raise _consent(row.brand, "did not answer when its refresh token was redeemed")
        if redeem.wait:
            raise _backing_off(row, redeem.wait)
        return grant

    async def _prepare(self, brand: str) -> None:
        """Have the server's metadata before a lease is taken: failing here is not a redemption."""
        server = self._vault.servers.get(brand)
        if server is None:
            raise ServerMisconfigured(
                f"brand {brand!r} is no longer configured: its grants wait for its return"
            )
        with self._vault.gate(brand).watch(proves=False):  # it may come from a cache
            await server.prepare()

    async def _begin(self, row: GrantRow, *, rejected: bool) -> _Redemption | None:
        """Lease the row, or None where somebody was faster. Raises where it may not be redeemed now."""
        grant = await self._check(row, rejected=rejected)
        owner = self._vault.new_id()
        leased = await self._vault.store.acquire_lease(
            row.key,
            version=row.version,
            unanswered=row.attempt.unanswered,
            owner=owner,
            seconds=self._settings.lease,
        )
        return _Redemption(row, grant, owner) if leased else None

    async def _redeem(self, redemption: _Redemption) -> _Redeemed:
        row, grant = redemption.row, redemption.grant
        assert grant.tokens.refresh_token is not None
        try:
            answer = await self._ask(row.brand, grant.tokens.refresh_token)
            tokens = responses.read_renewal(
                answer, previous=grant.tokens, version=self._vault.new_id(), now=self._vault.clock()
            )
        except InvalidGrant:
            return _Redeemed(row.key, await self._refused(redemption))
        except responses.UnusableAnswer as unusable:
            lost = AnswerLost(
                f"brand {row.brand!r}: its authorization server's answer is unusable: {unusable}"
            )
            raise await self._failed(redemption, lost) from None
        except (ServerUnavailable, ServerMisconfigured) as error:
            raise await self._failed(redemption, error) from None
        renewed = await self._adopt(redemption, replace(grant, tokens=tokens))
        return _Redeemed(row.key, renewed, responses.id_token(answer))

    async def _ask(self, brand: str, refresh_token: Secret) -> TokenAnswer:
        try:
            async with asyncio.timeout(self._settings.deadline):
                with self._vault.gate(brand).watch():
                    return await self._vault.servers[brand].refresh(refresh_token)
        except TimeoutError:
            raise AnswerLost(
                f"the authorization server of brand {brand!r} did not answer in {self._settings.deadline:g} s"
            ) from None

    async def _adopt(self, redemption: _Redemption, renewed: Grant) -> Grant:
        """Store the new tokens: they are all there is of this grant."""
        row = redemption.row

        async def adopt() -> Grant | GrantRow | None:
            current = await self._vault.store.get_grant(row.key)
            if current is None or current.version != row.version:
                return current
            # reads may have kept the session alive meanwhile
            grant = replace(renewed, session=self._vault.sealer.open_grant(current).session)
            new = self._vault.row(row.key, grant)
            stored = await self._vault.store.put_grant(new, replaces=row.version, owner=redemption.owner)
            return grant if stored else current

        adopted = await self._insist(adopt, row.brand)
        if not isinstance(adopted, Grant):
            return await self._late(redemption, renewed, adopted)
        self._vault.events("renewal", brand=row.brand, outcome="renewed")
        return adopted

    async def _insist(self, write: Callable[[], Awaitable[T]], brand: str) -> T:
        """Write what an authorization server answered, however long the store cannot."""
        pause = 0.05
        while True:
            try:
                return await write()
            except StoreUnavailable:
                self._vault.events("renewal_unsaved", brand=brand, retry_in=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)

    async def _late(self, redemption: _Redemption, renewed: Grant, current: GrantRow | None) -> Grant:
        """An answer nobody waits for any more: revoked, never written.

        But for one of the same family as the stored tokens: revoking either of
        its tokens may end all that descends from the delegation (RFC 7009
        section 2.1), a peer's good tokens with it.
        """
        self._vault.events("renewal", brand=renewed.brand, outcome="late")
        if current is None:
            await self._insist(partial(self._revoker.queue, renewed, refresh_token=True), renewed.brand)
            raise GrantNotFound("the grant was invalidated: challenge the consumer")
        stored = self._vault.sealer.open_grant(current)
        if stored.family != renewed.family:
            await self._insist(partial(self._revoker.queue, renewed, refresh_token=False), renewed.brand)
        if current.version == redemption.row.version:
            raise ServerUnavailable("another sidecar has taken this renewal over: ask again")
        return stored

    async def _take_id_token(self, redeemed: _Redeemed) -> Grant:
        """Take over a renewed id token once it is verified. Without one, the old serves until its own end."""
        grant, id_token = redeemed.grant, redeemed.id_token
        if id_token is None or grant.subject is None:
            return grant
        try:
            claims = await self._vault.servers[grant.brand].verify_id_token(
                id_token, nonce=None, now=self._vault.clock()
            )
            if claims.subject != grant.subject:
                self._vault.events("renewal", brand=grant.brand, outcome="foreign_subject")
                await self._insist(partial(self._revoker.forget, redeemed.key, grant), grant.brand)
                raise _consent(grant.brand, "renewed the grant for another subject")
            tokens = replace(grant.tokens, id_token=id_token, id_token_expires_at=claims.expires_at)
            taken = replace(grant, tokens=tokens)
            await self._vault.store.touch_grant(self._vault.row(redeemed.key, taken))
        except (InvalidIdToken, ServerUnavailable, ServerMisconfigured, StoreUnavailable) as error:
            self._vault.events("id_token_refused", brand=grant.brand, reason=error.reason.value)
            return grant
        return taken

    async def _refused(self, redemption: _Redemption) -> Grant:
        """invalid_grant: a peer may have won; else the refresh token is dead and never sent again.

        Refused when it may have been redeemed before, it was a replay to the
        server, which has revoked the access token as well (RFC 9700 section 4.14.2).
        """
        row, tokens = redemption.row, redemption.grant.tokens
        if row.attempt.unanswered:
            tokens = replace(tokens, expires_at=self._vault.clock())
        grant = replace(redemption.grant, tokens=tokens)
        if await self._insist(partial(self._end, row, grant, owner=redemption.owner), row.brand):
            self._vault.events("renewal", brand=row.brand, outcome="refused")
            raise _consent(row.brand, "refused the refresh token")
        current = await self._vault.store.get_grant(row.key)
        if current is None or current.version == row.version:
            raise _consent(row.brand, "refused the refresh token")
        return self._vault.sealer.open_grant(current)

    async def _end(self, row: GrantRow, grant: Grant, *, owner: str | None) -> bool:
        """Forget the refresh token; the access token serves for as long as it lives."""
        ended = replace(grant, tokens=replace(grant.tokens, refresh_token=None))
        return await self._vault.store.put_grant(
            self._vault.row(row.key, ended), replaces=row.version, owner=owner
        )

    async def _failed(
        self, redemption: _Redemption, error: ServerUnavailable | ServerMisconfigured
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


def _backing_off(row: GrantRow, wait: float) -> VaultError:
    """The last failure once more, without a request."""
    if row.attempt.reason == ServerMisconfigured.reason:
        return ServerMisconfigured(
            f"the authorization server of brand {row.brand!r} refuses this client: "
            "check the brand's client registration; the log has the error code"
        )
    return ServerUnavailable(
        f"the authorization server of brand {row.brand!r} failed a moment ago: ask again", retry_after=wait
    )


def _consent(brand: str, what: str) -> ConsentRequired:
    return ConsentRequired(f"the authorization server of brand {brand!r} {what}: challenge the consumer")
