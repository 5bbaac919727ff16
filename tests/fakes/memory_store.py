"""A store in memory, with the rules of every other. Set `down` to have it fail as a full disk would."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from tokenvault_sidecar.core.errors import StoreUnavailable
from tokenvault_sidecar.core.ports import (
    Attempt,
    Completion,
    Counts,
    DelegationRow,
    GrantRow,
    OutcomeRow,
    RevocationRow,
    SealedRecord,
    WrappedKey,
)

_HELD = -1
"""In place of who took a delegation: a grant is held in it."""


class MemoryStore:
    """Implements `core.ports.Store`. Advance `lease_clock` to let leases run out."""

    def __init__(self, *, lease_clock: Callable[[], float] = time.monotonic) -> None:
        self.down = False
        self.grants: dict[bytes, GrantRow] = {}
        self.delegations: dict[bytes, DelegationRow] = {}
        self.taken: dict[bytes, int] = {}
        self._takers = 0
        self.outcomes: dict[bytes, OutcomeRow] = {}
        self.revocations: dict[str, RevocationRow] = {}
        self.keys: list[WrappedKey] = []
        self._leases: dict[bytes, tuple[str, float]] = {}
        self._lease_clock = lease_clock

    async def get_grant(self, key: bytes) -> GrantRow | None:
        await self._turn()
        return self._seen(self.grants[key]) if key in self.grants else None

    async def put_grant(
        self,
        row: GrantRow,
        *,
        replaces: str | None,
        owner: str | None = None,
        completes: Completion | None = None,
    ) -> bool:
        await self._turn()
        if self._version(row.key) != replaces or (owner is not None and not self._owns(row.key, owner)):
            return False
        if completes is not None:
            waiting = [self.revocations.get(row_id) for row_id in completes.revocations]
            if not self._is_taken(completes.key, completes.was) or any(r is None or r.tries for r in waiting):
                return False
            del self.delegations[completes.key]
            self.revocations = {k: r for k, r in self.revocations.items() if k not in completes.revocations}
            self._put_outcome(completes.outcome)
        self.grants[row.key] = replace(row, attempt=replace(row.attempt, leased=False))
        self._leases.pop(row.key, None)
        return True

    async def touch_grant(self, row: GrantRow, *, was: bytes | None = None) -> bool:
        await self._turn()
        if self._version(row.key) != row.version or self._resealed(row.key, was):
            return False
        self.grants[row.key] = replace(
            self.grants[row.key], sealed=row.sealed, purge_at=row.purge_at, renew_at=row.renew_at
        )
        return True

    async def forget_context(
        self,
        key: bytes,
        *,
        version: str | None,
        was: bytes | None = None,
        revocations: Sequence[RevocationRow] = (),
        voids: bool = True,
    ) -> bool:
        await self._turn()
        if self._version(key) != version or self._resealed(key, was):
            return False
        self._queue(revocations)
        self.grants.pop(key, None)
        self._leases.pop(key, None)
        if voids:
            self.delegations = {k: row for k, row in self.delegations.items() if row.context_key != key}
            self.outcomes = {k: row for k, row in self.outcomes.items() if row.context_key != key}
        return True

    async def acquire_lease(
        self,
        key: bytes,
        *,
        version: str,
        unanswered: int,
        owner: str,
        seconds: float,
        was: bytes | None = None,
    ) -> bool:
        await self._turn()
        if self._version(key) != version or self._leased(key) or self._resealed(key, was):
            return False
        row = self.grants[key]
        if row.attempt.unanswered != unanswered:
            return False
        self.grants[key] = replace(row, attempt=replace(row.attempt, unanswered=unanswered + 1))
        self._leases[key] = (owner, self._lease_clock() + seconds)
        return True

    async def release_lease(self, key: bytes, *, owner: str, attempt: Attempt) -> bool:
        await self._turn()
        if not self._owns(key, owner):
            return False
        self.grants[key] = replace(self.grants[key], attempt=replace(attempt, leased=False))
        del self._leases[key]
        return True

    async def due_grants(self, now: float, *, brand: str, limit: int) -> Sequence[GrantRow]:
        await self._turn()
        due = [
            (row.renew_at, row)
            for row in self.grants.values()
            if row.brand == brand and row.renew_at is not None and row.renew_at <= now
            if row.attempt.unanswered == 0
            and (row.attempt.retry_at is None or row.attempt.retry_at <= now)
            and not self._leased(row.key)
        ]
        return [self._seen(row) for _, row in sorted(due, key=lambda pair: pair[0])[:limit]]

    async def ended_grants(self, now: float, *, limit: int) -> Sequence[GrantRow]:
        await self._turn()
        ended = [row for row in self.grants.values() if row.purge_at <= now]
        return [self._seen(row) for row in sorted(ended, key=lambda row: row.purge_at)[:limit]]

    async def grants_after(self, key: bytes, *, brand: str | None, limit: int) -> Sequence[GrantRow]:
        await self._turn()
        after = sorted(k for k, row in self.grants.items() if k > key and brand in (None, row.brand))
        return [self._seen(self.grants[k]) for k in after[:limit]]

    async def count(self, now: float) -> Counts:
        await self._turn()
        brands = {row.brand for row in self.grants.values()}
        due = [await self.due_grants(now, brand=brand, limit=len(self.grants)) for brand in brands]
        return Counts(
            grants=Counter((row.brand, row.kind) for row in self.grants.values()),
            ambiguous=sum(row.attempt.unanswered > 0 for row in self.grants.values()),
            due=sum(map(len, due)),
            delegations=len(self.delegations),
            revocations=sum(row.tries > 0 or row.due_at <= now for row in self.revocations.values()),
        )

    async def put_delegation(self, row: DelegationRow, outcome: OutcomeRow | None = None) -> None:
        await self._turn()
        if row.key in self.delegations:
            raise ValueError("a row of this key is there already")
        self.delegations[row.key] = row
        if outcome is not None:
            self.outcomes[outcome.key] = outcome

    async def get_delegation(self, key: bytes) -> DelegationRow | None:
        await self._turn()
        return None if key in self.taken else self.delegations.get(key)

    async def take_delegation(self, key: bytes) -> int | None:
        await self._turn()
        if key not in self.delegations or key in self.taken:
            return None
        self._takers += 1
        self.taken[key] = self._takers
        return self._takers

    async def get_taken(self, key: bytes) -> DelegationRow | None:
        await self._turn()
        return self.delegations[key] if self._is_taken(key) else None

    async def change_taken(
        self,
        row: DelegationRow,
        *,
        was: bytes,
        outcome: OutcomeRow | None = None,
        revocations: Sequence[RevocationRow] = (),
    ) -> bool:
        await self._turn()
        if not self._is_taken(row.key, was):
            return False
        self._queue(revocations)
        known = self.delegations[row.key]
        self.delegations[row.key] = replace(known, sealed=row.sealed, expires_at=row.expires_at)
        self.taken[row.key] = _HELD
        self._put_outcome(outcome)
        return True

    async def end_taken(self, row: DelegationRow, *, outcome: OutcomeRow) -> bool:
        await self._turn()
        if not self._is_taken(row.key, row.sealed):
            return False
        del self.delegations[row.key]
        self._put_outcome(outcome)
        return True

    async def give_back_delegation(self, key: bytes, taker: int) -> bool:
        await self._turn()
        if key not in self.delegations or self.taken.get(key) != taker:
            return False
        del self.taken[key]
        return True

    async def purge_delegations(self, now: float, *, taken: float) -> int:
        await self._turn()
        until = {key: taken if self.taken.get(key, _HELD) != _HELD else now for key in self.delegations}
        stale = [key for key, row in self.delegations.items() if row.expires_at < until[key]]
        for key in stale:
            del self.delegations[key]
        self.outcomes = {k: row for k, row in self.outcomes.items() if row.purge_at >= now}
        return len(stale)

    async def get_outcome(self, key: bytes) -> OutcomeRow | None:
        await self._turn()
        return self.outcomes.get(key)

    async def latest_outcomes(self, context_key: bytes, *, after: float, limit: int) -> Sequence[OutcomeRow]:
        await self._turn()
        rows = [r for r in self.outcomes.values() if r.context_key == context_key and r.purge_at > after]
        return sorted(rows, key=lambda row: -row.purge_at)[:limit]

    async def set_outcome(self, row: OutcomeRow) -> bool:
        await self._turn()
        if row.key not in self.outcomes:
            return False
        self.outcomes[row.key] = row
        return True

    async def void_delegations(self, *, brand: str) -> int:
        await self._turn()
        voided = [key for key, row in self.delegations.items() if row.brand == brand]
        for key in voided:
            del self.delegations[key]
        self.outcomes = {k: row for k, row in self.outcomes.items() if row.brand != brand}
        return len(voided)

    async def add_revocations(self, rows: Sequence[RevocationRow]) -> None:
        await self._turn()
        self._queue(rows)

    async def due_revocations(self, now: float, *, limit: int) -> Sequence[RevocationRow]:
        await self._turn()
        due = [row for row in self.revocations.values() if row.due_at <= now]
        return sorted(due, key=lambda row: row.due_at)[:limit]

    async def postpone_revocation(self, row_id: str, *, tries: int, due_at: float) -> bool:
        await self._turn()
        row = self.revocations.get(row_id)
        if row is None or row.tries != tries - 1:
            return False
        self.revocations[row_id] = replace(row, tries=tries, due_at=due_at)
        return True

    async def drop_revocation(self, row_id: str) -> None:
        await self._turn()
        self.revocations.pop(row_id, None)

    async def get_keys(self) -> Sequence[WrappedKey]:
        await self._turn()
        return sorted(self.keys, key=_age)

    async def add_keys(self, keys: Sequence[WrappedKey], *, first: bool) -> bool:
        await self._turn()
        if first and (self.keys or self.grants or self.delegations or self.outcomes or self.revocations):
            return False
        _refuse_known((key.id for key in keys), {key.id for key in self.keys})
        self.keys += keys
        return True

    async def add_data_key(self, key: WrappedKey, *, after: str) -> bool:
        await self._turn()
        data = [(known.id, known.kek) for known in sorted(self.keys, key=_age) if known.purpose == "data"]
        if data[-1:] != [(after, key.kek)]:
            return False
        _refuse_known([key.id], {known.id for known in self.keys})
        self.keys.append(key)
        return True

    async def rewrap_keys(self, keys: Sequence[WrappedKey], *, were: Sequence[WrappedKey]) -> bool:
        await self._turn()
        if {key.id: key.wrapped for key in self.keys} != {key.id: key.wrapped for key in were}:
            return False
        now = {key.id: key for key in keys}
        self.keys = [replace(key, kek=now[key.id].kek, wrapped=now[key.id].wrapped) for key in self.keys]
        return True

    async def drop_data_key(self, key_id: str, *, head: bytes) -> bool:
        await self._turn()
        named = [key for key in self.keys if key.id == key_id and key.purpose == "data"]
        if not named or self._sealed_by(head):
            return False
        self.keys.remove(named[0])
        return True

    async def count_seals(self, key_id: str, more: int) -> None:
        await self._turn()
        self.keys = [replace(key, seals=key.seals + more) if key.id == key_id else key for key in self.keys]

    async def sealed_records(self, head: bytes, *, limit: int) -> Sequence[SealedRecord]:
        await self._turn()
        return self._sealed_by(head)[:limit]

    async def count_sealed(self, head: bytes) -> int:
        await self._turn()
        return len(self._sealed_by(head))

    async def reseal(self, records: Sequence[tuple[SealedRecord, bytes]]) -> int:
        await self._turn()
        changed = 0
        for record, sealed in records:
            if record in self._sealed_by(record.sealed):
                changed += 1
                match record.table:
                    case "grants":
                        self.grants[record.key] = replace(self.grants[record.key], sealed=sealed)
                    case "delegations":
                        self.delegations[record.key] = replace(self.delegations[record.key], sealed=sealed)
                    case "outcomes":
                        self.outcomes[record.key] = replace(self.outcomes[record.key], sealed=sealed)
                    case _:
                        name = record.key.decode()
                        self.revocations[name] = replace(self.revocations[name], sealed=sealed)
        return changed

    async def close(self) -> None:
        """Nothing to let go of: what was stored can still be looked at."""

    async def _turn(self) -> None:
        """Others run between a call and its effect, as with a real store."""
        await asyncio.sleep(0)
        if self.down:
            raise StoreUnavailable("the store cannot be used: its disk is full, free space", retry_after=1.0)

    def _sealed_by(self, head: bytes) -> list[SealedRecord]:
        records = [
            SealedRecord("grants", row.key, row.brand, row.kind, row.version, row.sealed)
            for row in self.grants.values()
        ]
        records += [
            SealedRecord("delegations", row.key, row.brand, row.kind, "", row.sealed)
            for row in self.delegations.values()
        ]
        records += [
            SealedRecord("outcomes", row.key, row.brand, row.kind, "", row.sealed)
            for row in self.outcomes.values()
        ]
        records += [
            SealedRecord("revocations", row.id.encode(), row.brand, "", "", row.sealed)
            for row in self.revocations.values()
        ]
        return [record for record in records if record.sealed.startswith(head)]

    def _is_taken(self, key: bytes, was: bytes | None = None) -> bool:
        row = self.delegations.get(key)
        return row is not None and key in self.taken and was in (None, row.sealed)

    def _put_outcome(self, row: OutcomeRow | None) -> None:
        if row is not None:
            self.outcomes[row.key] = row

    def _resealed(self, key: bytes, was: bytes | None) -> bool:
        return was is not None and self.grants[key].sealed != was

    def _version(self, key: bytes) -> str | None:
        return self.grants[key].version if key in self.grants else None

    def _leased(self, key: bytes) -> bool:
        return key in self._leases and self._leases[key][1] > self._lease_clock()

    def _owns(self, key: bytes, owner: str) -> bool:
        return key in self._leases and self._leases[key][0] == owner

    def _seen(self, row: GrantRow) -> GrantRow:
        return replace(row, attempt=replace(row.attempt, leased=self._leased(row.key)))

    def _queue(self, rows: Sequence[RevocationRow]) -> None:
        _refuse_known((row.id for row in rows), set(self.revocations))
        self.revocations |= {row.id: row for row in rows}


def _age(key: WrappedKey) -> float:
    return key.created_at


def _refuse_known(ids: Iterable[str], known: set[str]) -> None:
    for row_id in ids:
        if row_id in known:
            raise ValueError("a row of this key is there already")
        known.add(row_id)
