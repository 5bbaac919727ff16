"""Renewal: one redemption per token version, and nothing lost.

    single-flight in the process → lease on the row, durable → redeem in a task
    of its own → commit the answer before anything else → look at the rest

The lease counts the redemption as unanswered before the request is sent, so a
process that dies leaves a record of it. An answer is adopted only by the lease
that asked, on the version it redeemed: a late one is revoked, never written.
"""

import asyncio
from dataclasses import dataclass

from tokenvault_sidecar.core import lifecycle, responses
from tokenvault_sidecar.core.adoption import Adoption, Redemption
from tokenvault_sidecar.core.errors import (
    AnswerLost,
    ConsentRequired,
    GrantNotFound,
    InvalidGrant,
    ServerMisconfigured,
    ServerUnavailable,
    VaultError,
)
from tokenvault_sidecar.core.model import Grant
from tokenvault_sidecar.core.ports import GrantRow, TokenAnswer
from tokenvault_sidecar.core.revocation import Revoker
from tokenvault_sidecar.core.vault import Vault


@dataclass(frozen=True, slots=True)
class RenewalSettings:
    """Seconds. A lease outlasts the deadline of its redemption; `patience` is a caller's longest wait."""

    deadline: float = 10.0
    lease: float = 30.0
    patience: float = 15.0


class Renewer:
    """Renews consumer grants."""

    def __init__(self, vault: Vault, revoker: Revoker, settings: RenewalSettings) -> None:
        self._vault = vault
        self._adoption = Adoption(vault, revoker)
        self._settings = settings
        self._stopping = False
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

    def stop(self) -> None:
        """Begin no redemption any more; those under way go on."""
        self._stopping = True

    async def _renew(self, key: bytes, version: str, *, rejected: bool, background: bool) -> Grant:
        while True:
            row = await self._vault.store.get_grant(key)
            if row is None:
                raise GrantNotFound("the grant was invalidated: challenge the consumer")
            if row.version != version:
                return await self._vault.open_grant(row)
            if row.attempt.leased:
                await self._peer(row)
                continue
            grant = await self._vault.open_grant(row)
            await self._check(row, grant, rejected=rejected)
            # The slot comes first: a lease is held for one request, not for a queue.
            async with self._vault.gate(row.brand).slot(background=background):
                await self._prepare(row.brand)
                redemption = await self._begin(row, grant, rejected=rejected)
                if redemption is None:  # somebody was faster
                    continue
                renewed, answer = await self._redeem(redemption)
            return await self._adoption.take_id_token(key, renewed, answer)

    async def _peer(self, row: GrantRow) -> None:
        """Wait while another process redeems this version, until its result is there or its lease is over."""
        pause = 0.01
        while True:
            await asyncio.sleep(pause)
            now = await self._vault.store.get_grant(row.key)
            if now is None or now.version != row.version or not now.attempt.leased:
                return
            pause = min(pause * 1.5, 0.2)

    async def _check(self, row: GrantRow, grant: Grant, *, rejected: bool) -> None:
        """Raises where the refresh token may not be redeemed now."""
        now = self._vault.clock()
        if lifecycle.renewable(grant, now) is not lifecycle.Renewable.YES:
            raise ConsentRequired(f"brand {row.brand!r}: the grant cannot be renewed: challenge the consumer")
        over = rejected or not lifecycle.is_valid(grant, now)
        redeem = lifecycle.may_redeem(row.attempt, token_over=over, now=now)
        if redeem.lost:
            raise await self._adoption.lost(row)
        if redeem.wait:
            raise _backing_off(row, redeem.wait)

    async def _prepare(self, brand: str) -> None:
        """Have the server's metadata before a lease is taken: failing here is not a redemption."""
        server = self._vault.server(brand)
        with self._vault.gate(brand).watch(proves=False):  # it may come from a cache
            await server.prepare()

    async def _begin(self, row: GrantRow, grant: Grant, *, rejected: bool) -> Redemption | None:
        """Lease the row, or None where somebody was faster. Raises where it may not be redeemed now."""
        await self._check(row, grant, rejected=rejected)
        if self._stopping:
            raise ServerUnavailable("the sidecar is stopping: ask again")
        owner = self._vault.new_id()
        until = asyncio.get_running_loop().time() + self._settings.deadline  # from before the lease
        leased = await self._vault.store.acquire_lease(
            row.key,
            version=row.version,
            unanswered=row.attempt.unanswered,
            owner=owner,
            seconds=self._settings.lease,
            was=row.sealed,
        )
        return Redemption(row, grant, owner, rejected, until) if leased else None

    async def _redeem(self, redemption: Redemption) -> tuple[Grant, TokenAnswer]:
        """The grant with its new tokens, stored, and the answer they came in."""
        brand, grant = redemption.row.brand, redemption.grant
        answer: TokenAnswer = {}
        try:
            answer = await self._ask(redemption)
            tokens = responses.read_renewal(
                answer, previous=grant.tokens, version=self._vault.new_id(), now=self._vault.clock()
            )
        except InvalidGrant:
            return await self._adoption.refused(redemption), answer
        except responses.UnusableAnswer as unusable:
            lost = AnswerLost(f"brand {brand!r}: its authorization server's answer is unusable: {unusable}")
            raise await self._adoption.failed(redemption, lost) from None
        except (ServerUnavailable, ServerMisconfigured) as error:
            raise await self._adoption.failed(redemption, error) from None
        adopted = await self._adoption.adopt(redemption, tokens)
        # what came instead, from a peer or a later delegation, has nothing to do with this answer
        return adopted, answer if adopted.tokens is tokens else {}

    async def _ask(self, redemption: Redemption) -> TokenAnswer:
        brand, refresh_token = redemption.row.brand, redemption.grant.tokens.refresh_token
        assert refresh_token is not None
        with self._vault.gate(brand).watch():
            if asyncio.get_running_loop().time() >= redemption.until:
                raise ServerUnavailable("the machine stalled before a redemption was sent: ask again")
            try:
                async with asyncio.timeout_at(redemption.until):
                    return await self._vault.server(brand).refresh(refresh_token)
            except TimeoutError:
                raise AnswerLost(
                    f"the authorization server of brand {brand!r} "
                    f"did not answer in {self._settings.deadline:g} s"
                ) from None


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
