"""Revocation (RFC 7009): forget first, durably, then have the tokens revoked from a queue that survives."""

import asyncio
from collections.abc import Sequence
from functools import partial

from tokenvault_sidecar.core import lifecycle
from tokenvault_sidecar.core.errors import ServerMisconfigured, ServerUnavailable, StoreUnavailable
from tokenvault_sidecar.core.model import Grant, Secret
from tokenvault_sidecar.core.ports import GrantRow, RevocationRow
from tokenvault_sidecar.core.vault import UNSAVED, Vault

GIVE_UP_AFTER = 86400.0
"""Seconds after which a revocation that never succeeds is dropped, and said so."""

BATCH = 50
"""Revocations tried at once."""

LONGEST_TRY = 30.0
"""Seconds for which a claimed revocation is nobody else's to try."""


class Revoker:
    """Queues tokens for revocation and works the queue off; `works` False: leaves that to another process."""

    def __init__(self, vault: Vault, *, works: bool = True) -> None:
        self._vault = vault
        self._works = works

    async def forget_context(self, key: bytes) -> bool:
        """Forget the context as it is by now, and void its delegations; False: it had no grant."""
        while True:
            row = await self._vault.store.get_grant(key)
            if row is None:
                if await self._vault.store.forget_context(key, version=None):
                    return False
            elif await self.forget(row):
                return True

    async def forget(self, row: GrantRow, *, voids: bool = True) -> bool:
        """Delete the grant, queue its tokens, and where it `voids`, void its context's delegations.

        One transaction. False where the row is no more as it is here: nothing changed. One that
        cannot be opened is deleted, its tokens stay unrevoked.
        """
        revocations: list[RevocationRow] = []
        try:
            revocations = self.rows(await self._vault.open_grant(row), refresh_token=True)
        except StoreUnavailable:
            self._vault.events("unreadable_forgotten", brand=row.brand)
        forgotten = await self._vault.store.forget_context(
            row.key, version=row.version, was=row.sealed, revocations=revocations, voids=voids
        )
        if forgotten and revocations:
            self.work_soon()
        return forgotten

    async def queue(self, grant: Grant, *, refresh_token: bool) -> None:
        """Queue the tokens of a grant that is in no row."""
        await self._vault.store.add_revocations(self.rows(grant, refresh_token=refresh_token))
        self.work_soon()

    async def revoke_soon(self, grant: Grant) -> None:
        """Queue the tokens of a grant that was never stored; where the store is away, once it is back."""
        queue = partial(self.queue, grant, refresh_token=True)
        await self._vault.write_soon(queue, event=UNSAVED, brand=grant.brand)

    async def hurry(self, ids: Sequence[str]) -> None:
        """Have those of these that wait for their time tried now."""
        now = self._vault.clock()
        for row_id in ids:
            await self._vault.store.postpone_revocation(row_id, tries=1, due_at=now)
        self.work_soon()

    def work_soon(self) -> None:
        """Try what is due, in the background."""
        if not self._works:
            return
        self._vault.background.spawn(self._work_quietly(), "revocation")

    async def work(self) -> int:
        """Try one batch of what is due; how many were tried."""
        now = self._vault.clock()
        rows = await self._vault.store.due_revocations(now, limit=BATCH)
        await asyncio.gather(*(self._try(row, now) for row in rows))
        return len(rows)

    async def _work_quietly(self) -> None:
        try:
            await self.work()
        except StoreUnavailable:
            self._vault.events("revocation_waits", reason="STORE_UNAVAILABLE")

    async def _try(self, row: RevocationRow, now: float) -> None:
        # claimed by pushing it out: a peer, or a crash, finds it due again later
        wait = lifecycle.backoff(row.tries, self._vault.jitter())
        claimed = await self._vault.store.postpone_revocation(
            row.id, tries=row.tries + 1, due_at=now + LONGEST_TRY + wait
        )
        if not claimed:
            return
        server = self._vault.servers.get(row.brand)
        try:
            if server is None:
                raise ServerMisconfigured(f"brand {row.brand!r} is no longer configured")
            token, hint = await self._vault.open_revocation(row)
            async with self._vault.gate(row.brand).request(background=True):
                await server.prepare()
                await server.revoke(token, hint=hint)
        except (ServerUnavailable, ServerMisconfigured, StoreUnavailable) as error:
            if now < row.give_up_at:
                self._vault.events(
                    "revocation_waits", brand=row.brand, reason=error.reason.value, tries=row.tries + 1
                )
                return
            self._vault.events(
                "revocation_given_up", brand=row.brand, reason=error.reason.value, tries=row.tries + 1
            )
        else:
            self._vault.events("revocation", brand=row.brand, hint=hint)
        await self._vault.store.drop_revocation(row.id)

    def rows(
        self, grant: Grant, *, refresh_token: bool = True, due_at: float | None = None
    ) -> list[RevocationRow]:
        """The grant's tokens, to be queued; from `due_at` on, None: at once.

        Refresh token first: it is the one that lasts.
        """
        now, tokens = self._vault.clock(), grant.tokens
        waiting: list[tuple[Secret, str]] = []
        if refresh_token and tokens.refresh_token is not None:
            waiting.append((tokens.refresh_token, "refresh_token"))
        if tokens.expires_at is None or tokens.expires_at > now:
            waiting.append((tokens.access_token, "access_token"))
        due = now if due_at is None else due_at
        return [self._row(grant.brand, token, hint, due) for token, hint in waiting]

    def _row(self, brand: str, token: Secret, hint: str, due_at: float) -> RevocationRow:
        row_id = self._vault.new_id()
        return RevocationRow(
            id=row_id,
            brand=brand,
            due_at=due_at,
            give_up_at=due_at + GIVE_UP_AFTER,
            sealed=self._vault.sealer.seal_revocation(row_id, brand, token, hint),
        )
