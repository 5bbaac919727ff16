"""Rotating data keys: a new one seals from then on, and records are sealed anew by it while calls are served.

Work is found by asking for what an older key has sealed, so that a rotation
goes on where it was killed, in this process or another one. An old key is
deleted once nothing is sealed by it, and the new one has been there for so
long that no process can be at writing what the old one has sealed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenvault_sidecar.core.errors import KeyUnwrappable, StoreUnavailable
from tokenvault_sidecar.core.ports import Clock, Events, Keys, SealedRecord, Store
from tokenvault_sidecar.core.sealing import Sealer

BATCH = 100
"""Records sealed anew in one transaction."""

SETTLED = 3600.0
"""Seconds after which every running process seals by a new key, one that was stopped for a while included."""

COARSE = 1000
"""Seals that are counted together."""


@dataclass(frozen=True, slots=True)
class RotationSettings:
    """When a data key has sealed long enough: in seconds, and in records."""

    after: float
    after_seals: int


class Rotation:
    """The data keys of one store, as this process sees them. `settings` None: rotated by hand only."""

    settings: RotationSettings | None = None

    def __init__(self, store: Store, sealer: Sealer, keys: Keys, clock: Clock, events: Events) -> None:
        self._store = store
        self._keyring = sealer.keyring
        self._sealer = sealer
        self._keys = keys
        self._clock = clock
        self._events = events
        self._unreadable: set[tuple[str, bytes]] = set()

    async def begin(self) -> bool:
        """Have a new data key seal. False: a peer was faster, and its key does."""
        return await self._begin(after=self._keyring.active)

    async def _begin(self, *, after: str) -> bool:
        await self.save_count()
        try:
            added = await self._keys.add(self._clock(), after=after)
        except KeyUnwrappable as error:
            self._events("rotation_waits", problem=error.message)
            raise
        if added:
            self._events("data_key_added", key=self._keyring.active)
        return added

    async def begin_if_due(self) -> bool:
        """Begin where the active key is as old, or has sealed as much, as the settings allow."""
        if self.settings is None:
            return False
        await self._keys.refresh()
        (active,) = [key for key in await self._store.get_keys() if key.id == self._keyring.active]
        seals = active.seals + self._keyring.unsaved
        old = self._clock() >= active.created_at + self.settings.after
        return (old or seals >= self.settings.after_seals) and await self._begin(after=active.id)

    async def waiting(self) -> int:
        """How many records an older key has sealed."""
        return sum([await self._store.count_sealed(self._keyring.head(key)) for key in self._older()])

    async def reseal(self) -> int:
        """Seal a batch of these anew; how many were looked at. One that cannot be opened stays as it is."""
        for key in self._older():
            head, skipped = self._keyring.head(key), len(self._unreadable)
            records = [
                record
                for record in await self._store.sealed_records(head, limit=BATCH + skipped)
                if (record.table, record.key) not in self._unreadable
            ][:BATCH]
            if records:
                await self._store.reseal(list(self._sealed_anew(records)))
                if self._keyring.unsaved >= COARSE:
                    await self.save_count()
                return len(records)
        return 0

    async def drop_old(self) -> list[str]:
        """Delete the older keys that nothing is sealed by any more, and nothing can be; their ids."""
        await self._keys.refresh()
        if not self._older():
            return []
        (newest,) = [key for key in await self._store.get_keys() if key.id == self._keyring.active]
        if self._clock() < newest.created_at + SETTLED:
            return []
        older = [(key, self._keyring.head(key)) for key in self._older()]
        dropped = [key for key, head in older if await self._store.drop_data_key(key, head=head)]
        for key in dropped:
            self._events("data_key_deleted", key=key)
        if dropped:
            await self._keys.refresh()
        return dropped

    async def save_count(self) -> None:
        """Have the store count what was sealed since the last time."""
        key, count = self._keyring.active, self._keyring.unsaved
        if count:
            self._keyring.unsaved -= count
            await self._store.count_seals(key, count)

    def _older(self) -> Sequence[str]:
        return self._keyring.data_keys[:-1]

    def _sealed_anew(self, records: Sequence[SealedRecord]) -> list[tuple[SealedRecord, bytes]]:
        anew = []
        for record in records:
            try:
                anew.append((record, self._sealer.reseal(record)))
            except StoreUnavailable:
                self._unreadable.add((record.table, record.key))
                self._events("unreadable_kept", table=record.table, brand=record.brand)
        return anew
