"""The store in one SQLite file: WAL, every commit synced, shared by any number of processes of one machine.

Point reads run on the event loop: one takes some 13 µs, a thread's hand-over
ten times that. Writes go through one thread. Leases are kept by the time
since boot, which no change of the wall clock moves.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pysqlite3

from tokenvault_sidecar.adapters import rows, sqlite_keys
from tokenvault_sidecar.adapters import statements as sql
from tokenvault_sidecar.adapters.clock import boot_time, read_boot_id
from tokenvault_sidecar.adapters.sqlite_file import open_file
from tokenvault_sidecar.adapters.sqlite_schema import Connection
from tokenvault_sidecar.adapters.sqlite_stock import take_stock
from tokenvault_sidecar.adapters.sqlite_writer import Writer, unavailable
from tokenvault_sidecar.adapters.statements import lease_statements
from tokenvault_sidecar.adapters.stores import Load, StoreOpenError
from tokenvault_sidecar.core.ports import (
    Attempt,
    Completion,
    Counts,
    DelegationRow,
    GrantRow,
    OutcomeRow,
    RevocationRow,
    SealedRecord,
    Stock,
    WrappedKey,
)

__all__ = ["SqliteStore", "StoreOpenError"]

# A lease of another boot is over.
_LEASES = lease_statements(
    leased="coalesce(lease_boot = :boot AND lease_until > :clock, FALSE)",
    begin="lease_boot = :boot, lease_until = :clock + :seconds",
)

_Values = Mapping[str, object]


class SqliteStore:
    """`core.ports.Store` on one SQLite file. Made by `open`; used from one event loop."""

    def __init__(
        self,
        reader: Connection,
        writer: Writer,
        *,
        path: Path,
        lease_clock: Callable[[], float],
        boot_id: str,
    ) -> None:
        self._path = path
        self._reader = reader
        self._writer = writer
        self._lease_clock = lease_clock
        self._boot_id = boot_id

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        lock_timeout: float = 5.0,
        lease_clock: Callable[[], float] = boot_time,
        boot_id: str | None = None,
    ) -> Self:
        """Open the file, made with mode 0600 where there is none, and migrate it.

        `lock_timeout`: how long to wait for another process's lock, in seconds.
        `lease_clock` and `boot_id` (None: the machine's) say when a lease is
        over. Raises StoreOpenError.
        """
        reader, writer = open_file(path, lock_timeout=lock_timeout)
        return cls(
            reader,
            Writer(writer, lock_timeout=lock_timeout),
            path=path,
            lease_clock=lease_clock,
            boot_id=read_boot_id() if boot_id is None else boot_id,
        )

    async def get_grant(self, key: bytes) -> GrantRow | None:
        found = self._read(_LEASES.get, self._lease_time(key=key))
        return rows.grant(found[0]) if found else None

    async def put_grant(
        self,
        row: GrantRow,
        *,
        replaces: str | None,
        owner: str | None = None,
        completes: Completion | None = None,
    ) -> bool:
        if replaces is None and owner is not None:  # where no row is, no lease is
            return False
        values = rows.grant_values(row) | {"replaces": replaces, "owner": owner}
        statement = sql.INSERT_GRANT if replaces is None else sql.REPLACE_GRANT

        def put(connection: Connection) -> bool:
            if completes is not None and not _completes(connection, completes):
                return False
            written = _change(connection, statement, values) == 1
            if written and completes is not None:
                _change(connection, sql.DELETE_DELEGATION, {"key": completes.key})
                for row_id in completes.revocations:
                    _change(connection, sql.DROP_REVOCATION, {"id": row_id})
                _put_outcome(connection, completes.outcome)
            return written

        return await self._writer.write(put)

    async def touch_grant(self, row: GrantRow, *, was: bytes | None = None) -> bool:
        return await self._change(sql.TOUCH_GRANT, rows.grant_values(row) | {"was": was})

    async def forget_context(
        self,
        key: bytes,
        *,
        version: str | None,
        was: bytes | None = None,
        revocations: Sequence[RevocationRow] = (),
        voids: bool = True,
    ) -> bool:
        def forget(connection: Connection) -> bool:
            if version is None:
                if connection.execute(sql.IS_GRANT, {"key": key}).fetchall():
                    return False
            elif not _change(connection, sql.DELETE_GRANT, {"key": key, "version": version, "was": was}):
                return False
            if voids:
                connection.execute(sql.VOID_CONTEXT, {"key": key})
                connection.execute(sql.FORGET_OUTCOMES, {"key": key})
            connection.executemany(sql.INSERT_REVOCATION, map(rows.revocation_values, revocations))
            return True

        return await self._writer.write(forget)

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
        values = {
            "key": key,
            "version": version,
            "unanswered": unanswered,
            "owner": owner,
            "seconds": seconds,
            "was": was,
        }
        # The clock is read under the lock: waiting for it may have taken a while.
        return await self._writer.write(
            lambda connection: _change(connection, _LEASES.acquire, self._lease_time(**values)) == 1
        )

    async def release_lease(self, key: bytes, *, owner: str, attempt: Attempt) -> bool:
        return await self._change(
            sql.RELEASE_LEASE, {"key": key, "owner": owner} | rows.attempt_values(attempt)
        )

    async def due_grants(self, now: float, *, brand: str, limit: int) -> Sequence[GrantRow]:
        found = self._read(_LEASES.due, self._lease_time(now=now, brand=brand, limit=limit))
        return [rows.grant(row) for row in found]

    async def ended_grants(self, now: float, *, limit: int) -> Sequence[GrantRow]:
        return [rows.grant(row) for row in self._read(_LEASES.ended, self._lease_time(now=now, limit=limit))]

    async def grants_after(self, key: bytes, *, brand: str | None, limit: int) -> Sequence[GrantRow]:
        found = self._read(_LEASES.after, self._lease_time(key=key, brand=brand, limit=limit))
        return [rows.grant(row) for row in found]

    async def count(self, now: float) -> Counts:
        grants = self._read(_LEASES.count, self._lease_time(now=now))
        (others,) = self._read(sql.COUNT_OTHERS, {"now": now})
        return rows.counts(grants, others)

    async def put_delegation(self, row: DelegationRow, outcome: OutcomeRow | None = None) -> None:
        def put(connection: Connection) -> None:
            connection.execute(sql.INSERT_DELEGATION, rows.delegation_values(row))
            if outcome is not None:
                connection.execute(sql.INSERT_OUTCOME, rows.outcome_values(outcome))

        await self._writer.write(put)

    async def get_delegation(self, key: bytes) -> DelegationRow | None:
        found = self._read(sql.GET_DELEGATION, {"key": key})
        return rows.delegation(found[0]) if found else None

    async def take_delegation(self, key: bytes) -> int | None:
        taker = rows.new_taker()
        return taker if await self._change(sql.TAKE_DELEGATION, {"key": key, "taker": taker}) else None

    async def get_taken(self, key: bytes) -> DelegationRow | None:
        found = self._read(sql.GET_TAKEN, {"key": key})
        return rows.delegation(found[0]) if found else None

    async def change_taken(
        self,
        row: DelegationRow,
        *,
        was: bytes,
        outcome: OutcomeRow | None = None,
        revocations: Sequence[RevocationRow] = (),
    ) -> bool:
        def change(connection: Connection) -> bool:
            if not _change(connection, sql.CHANGE_TAKEN, rows.delegation_values(row) | {"was": was}):
                return False
            _put_outcome(connection, outcome)
            connection.executemany(sql.INSERT_REVOCATION, map(rows.revocation_values, revocations))
            return True

        return await self._writer.write(change)

    async def end_taken(self, row: DelegationRow, *, outcome: OutcomeRow) -> bool:
        def end(connection: Connection) -> bool:
            if not _change(connection, sql.END_TAKEN, {"key": row.key, "sealed": row.sealed}):
                return False
            _put_outcome(connection, outcome)
            return True

        return await self._writer.write(end)

    async def give_back_delegation(self, key: bytes, taker: int) -> bool:
        return await self._change(sql.GIVE_BACK_DELEGATION, {"key": key, "taker": taker})

    async def purge_delegations(self, now: float, *, taken: float) -> int:
        def purge(connection: Connection) -> int:
            connection.execute(sql.PURGE_OUTCOMES, {"now": now})
            return _change(connection, sql.PURGE_DELEGATIONS, {"now": now, "taken": taken})

        return await self._writer.write(purge)

    async def get_outcome(self, key: bytes) -> OutcomeRow | None:
        found = self._read(sql.GET_OUTCOME, {"key": key})
        return rows.outcome(found[0]) if found else None

    async def latest_outcomes(self, context_key: bytes, *, after: float, limit: int) -> Sequence[OutcomeRow]:
        values = {"context_key": context_key, "after": after, "limit": limit}
        return [rows.outcome(row) for row in self._read(sql.LATEST_OUTCOMES, values)]

    async def set_outcome(self, row: OutcomeRow) -> bool:
        return await self._change(sql.SET_OUTCOME, rows.outcome_values(row))

    async def void_delegations(self, *, brand: str) -> int:
        def void(connection: Connection) -> int:
            connection.execute(sql.VOID_OUTCOMES, {"brand": brand})
            return _change(connection, sql.VOID_BRAND, {"brand": brand})

        return await self._writer.write(void)

    async def add_revocations(self, revocations: Sequence[RevocationRow]) -> None:
        def add(connection: Connection) -> None:
            connection.executemany(sql.INSERT_REVOCATION, map(rows.revocation_values, revocations))

        await self._writer.write(add)

    async def due_revocations(self, now: float, *, limit: int) -> Sequence[RevocationRow]:
        found = self._read(sql.DUE_REVOCATIONS, {"now": now, "limit": limit})
        return [RevocationRow(*row) for row in found]

    async def postpone_revocation(self, row_id: str, *, tries: int, due_at: float) -> bool:
        return await self._change(sql.POSTPONE_REVOCATION, {"id": row_id, "tries": tries, "due_at": due_at})

    async def drop_revocation(self, row_id: str) -> None:
        await self._change(sql.DROP_REVOCATION, {"id": row_id})

    async def get_keys(self) -> Sequence[WrappedKey]:
        return [WrappedKey(*row) for row in self._read(sqlite_keys.SELECT_KEYS)]

    async def add_keys(self, keys: Sequence[WrappedKey], *, first: bool) -> bool:
        return await self._writer.write(lambda connection: sqlite_keys.add(connection, keys, first=first))

    async def add_data_key(self, key: WrappedKey, *, after: str) -> bool:
        return await self._writer.write(lambda connection: sqlite_keys.add_data(connection, key, after=after))

    async def rewrap_keys(self, keys: Sequence[WrappedKey], *, were: Sequence[WrappedKey]) -> bool:
        return await self._writer.write(lambda connection: sqlite_keys.rewrap(connection, keys, were=were))

    async def drop_data_key(self, key_id: str, *, head: bytes) -> bool:
        return await self._change(sql.DROP_KEY, {"id": key_id, "head": head})

    async def count_seals(self, key_id: str, more: int) -> None:
        await self._change(sql.COUNT_SEALS, {"id": key_id, "more": more})

    async def sealed_records(self, head: bytes, *, limit: int) -> Sequence[SealedRecord]:
        found = self._read(sqlite_keys.SELECT_RECORDS, {"head": head, "limit": limit})
        return [SealedRecord(*row) for row in found]

    async def count_sealed(self, head: bytes) -> int:
        ((count,),) = self._read(sql.COUNT_SEALED, {"head": head})
        return int(count)

    async def reseal(self, records: Sequence[tuple[SealedRecord, bytes]]) -> int:
        def seal(connection: Connection) -> int:
            return sum(
                _change(connection, sql.RESEAL[record.table], rows.reseal_values(record, anew))
                for record, anew in records
            )

        return await self._writer.write(seal)

    @property
    def load(self) -> Load:
        """What the writer has done, and what waits for it."""
        return self._writer.load

    async def probe(self) -> None:
        """Write, durably, what changes nothing. Raises StoreUnavailable where nothing can be written."""

        def rewrite(connection: Connection) -> None:
            ((version,),) = connection.execute("PRAGMA user_version").fetchall()
            connection.execute(f"PRAGMA user_version = {version}")

        await self._writer.write(rewrite)

    async def take_stock(self, brands: Iterable[str], now: float) -> Stock:
        """Count, in a thread and on a connection of its own. Raises StoreUnavailable."""
        return await asyncio.to_thread(take_stock, self._path, brands, now)

    async def schema_version(self) -> int:
        ((version,),) = self._read("PRAGMA user_version")
        return int(version)

    async def size(self) -> int:
        ((pages, each),) = self._read("SELECT page_count, page_size FROM pragma_page_count, pragma_page_size")
        return int(pages * each)

    async def close(self) -> None:
        await self._writer.close()
        self._reader.close()

    def _lease_time(self, **more: object) -> dict[str, object]:
        return {"boot": self._boot_id, "clock": self._lease_clock(), **more}

    def _read(self, statement: str, values: _Values | tuple[()] = ()) -> list[Any]:
        try:
            # All of it: a statement left half read would hold back the checkpoints.
            found: list[Any] = self._reader.execute(statement, values).fetchall()
        except pysqlite3.Error as error:
            raise unavailable(error) from None
        return found

    async def _change(self, statement: str, values: _Values) -> bool:
        return await self._writer.write(lambda connection: _change(connection, statement, values) == 1)


def _change(connection: Connection, statement: str, values: _Values) -> int:
    """How many rows were changed."""
    return int(connection.execute(statement, values).rowcount)


def _completes(connection: Connection, completion: Completion) -> bool:
    """Whether the delegation and the revocations are as they must be."""
    return bool(
        connection.execute(sql.IS_TAKEN, {"key": completion.key, "was": completion.was}).fetchall()
    ) and all(
        connection.execute(sql.IS_UNTRIED, {"id": row_id}).fetchall() for row_id in completion.revocations
    )


def _put_outcome(connection: Connection, outcome: OutcomeRow | None) -> None:
    if outcome is not None:
        _change(connection, sql.PUT_OUTCOME, rows.outcome_values(outcome))
