"""What nobody asks for but time: purging what is over, renewing what is due, working off revocations."""

import asyncio

from tokenvault_sidecar.core.errors import StoreUnavailable
from tokenvault_sidecar.core.revocation import Revoker
from tokenvault_sidecar.core.vault import Vault

BATCH = 200
"""Rows purged in one go."""


class Housekeeping:
    """One loop; each round does what is due and then waits."""

    def __init__(self, vault: Vault, revoker: Revoker, *, interval: float) -> None:
        self._vault = vault
        self._revoker = revoker
        self._interval = interval

    async def run(self) -> None:
        """Go on until cancelled. A store that is away is waited for."""
        while True:
            try:
                await self.purge()
                await self._revoker.work()
            except StoreUnavailable:
                self._vault.events("housekeeping_waits", reason="STORE_UNAVAILABLE")
            await asyncio.sleep(self._interval)

    async def purge(self) -> int:
        """Delete ended grants (revoking what still lives) and stale delegations; how many."""
        now = self._vault.clock()
        purged = await self._vault.store.purge_delegations(now)
        while rows := await self._vault.store.ended_grants(now, limit=BATCH):
            gone = 0
            for row in rows:
                gone += await self._revoker.forget(row.key, self._vault.sealer.open_grant(row))
            purged += gone
            if not gone:
                break
        if purged:
            self._vault.events("purged", rows=purged)
        return purged
