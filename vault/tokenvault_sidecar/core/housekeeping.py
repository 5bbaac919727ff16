"""What nobody asks for but time: purging, renewing what is due, working off revocations, sealing anew."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from tokenvault_sidecar.core.errors import VaultError
from tokenvault_sidecar.core.gate import BACKGROUND_SLOTS
from tokenvault_sidecar.core.model import Grant
from tokenvault_sidecar.core.outcomes import FINISHING, UNFINISHED
from tokenvault_sidecar.core.renewal import Renewer
from tokenvault_sidecar.core.revocation import Revoker
from tokenvault_sidecar.core.rotation import Rotation
from tokenvault_sidecar.core.vault import Vault

PURGE_BATCH = 200
"""Rows purged in one go."""

LOOK = 1.0
"""Seconds between two looks for grants that are due, spread by jitter."""

LEISURE = 0.02
"""Seconds between the starts of two renewals that are due just now; less, the longer they have been."""

RESEAL_PAUSE = 0.1
"""Seconds between two batches of records that are sealed anew."""

SKIPPED_FOR = 60.0
"""Seconds for which a due grant that could not be renewed makes way for others."""


class Housekeeping:
    """Loops that do what is due and then wait; each goes on where another has trouble."""

    def __init__(
        self,
        vault: Vault,
        renewer: Renewer,
        revoker: Revoker,
        rotation: Rotation,
        *,
        interval: float,
    ) -> None:
        self._vault = vault
        self._renewer = renewer
        self._revoker = revoker
        self._rotation = rotation
        self._interval = interval
        self._skipped: dict[str, dict[bytes, float]] = {}

    async def run(self) -> None:
        """Go on until cancelled."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._every(self.purge, lambda: self._interval))
            loops.create_task(self._every(self._revoker.work, lambda: self._interval))
            loops.create_task(self._every(self.look_at_keys, lambda: LOOK))
            loops.create_task(self._every(self.reseal, lambda: self._interval))
            for brand in self._vault.brands:  # a loop each: a slow one delays no other
                loops.create_task(
                    self._every(partial(self.renew, brand), lambda: LOOK * (0.5 + self._vault.jitter()))
                )

    async def purge(self) -> int:
        """Delete a batch of ended grants, revoking what still lives, and stale delegations.

        How many grants.
        """
        now = self._vault.clock()
        await self._vault.store.purge_delegations(now - FINISHING, taken=now - UNFINISHED)
        rows = await self._vault.store.ended_grants(now, limit=PURGE_BATCH)
        for row in rows:
            await self._revoker.forget(row, voids=False)  # its end may be why the consumer is asked again
        if rows:
            self._vault.events("purged", grants=len(rows))
        return len(rows)

    async def look_at_keys(self) -> int:
        """Seal by the store's newest data key from now on, whoever added it."""
        await self._vault.keys.refresh()
        return 0

    async def reseal(self) -> int:
        """Seal some records by it that an older one has sealed; how many. Then rotate what is due."""
        done = await self._rotation.reseal()
        if done:
            await asyncio.sleep(RESEAL_PAUSE)
        else:
            await self._rotation.drop_old()
            await self._rotation.save_count()
            done = int(await self._rotation.begin_if_due())
        return done

    async def renew(self, brand: str) -> int:
        """Renew some of the brand's grants that are due; how many were renewed.

        Not all at once: in between, calls are served. At a steady rate the
        starts come to be spread evenly, each less than a LOOK late.
        """
        now = self._vault.clock()
        skipped = {key: until for key, until in self._skipped.get(brand, {}).items() if until > now}
        self._skipped[brand] = skipped
        if self._vault.gate(brand).is_open:
            return 0
        rows = await self._vault.store.due_grants(now, brand=brand, limit=BACKGROUND_SLOTS + len(skipped))
        due = [row for row in rows if row.key not in skipped][:BACKGROUND_SLOTS]
        flights: dict[bytes, asyncio.Task[Grant]] = {}
        for row in due:
            flights[row.key] = self._renewer.renew_soon(row.key, row.version, background=True)
            await asyncio.sleep(leisure(now - (row.renew_at or now)))
        if flights:
            await asyncio.wait(flights.values())
        failed = [key for key, flight in flights.items() if flight.exception() is not None]
        skipped.update(dict.fromkeys(failed, now + SKIPPED_FOR))
        return len(flights) - len(failed)

    async def _every(self, work: Callable[[], Awaitable[int]], pause: Callable[[], float]) -> None:
        """Again at once while something was done, else after a pause. A store that is away is waited for."""
        while True:
            try:
                done = await work()
            except VaultError as error:
                self._vault.events("housekeeping_waits", reason=error.reason.value)
                done = 0
            except Exception as error:  # a defect of one loop must not end the others
                self._vault.events("defect", task="housekeeping", error=type(error).__name__)
                done = 0
            if not done:
                await asyncio.sleep(pause())


def leisure(late: float) -> float:
    """Seconds until the next start, after one that is so many seconds late."""
    return LEISURE * max(1 - late / LOOK, 0.0)
