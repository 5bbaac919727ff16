"""The store in one SQLite file: WAL, every commit synced, shared by any number of processes of one machine.

Point reads run on the event loop: one takes some 13 µs, a thread's hand-over
ten times that. Writes go through one thread. Leases are kept by the time
since boot, which no change of the wall clock moves.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pysqlite3

from tokenvault_sidecar.adapters import sqlite_inspection, sqlite_keys, sqlite_rows
from tokenvault_sidecar.adapters.clock import boot_time, read_boot_id
from tokenvault_sidecar.adapters.sqlite_file import StoreOpenError, open_file
from tokenvault_sidecar.adapters.sqlite_schema import Connection
from tokenvault_sidecar.adapters.sqlite_writer import Load, Writer, unavailable
from tokenvault_sidecar.core.model import ContextKind
from tokenvault_sidecar.core.ports import (
    Attempt,
    Counts,
    DelegationRow,
    GrantRow,
    OutcomeRow,
    RevocationRow,
    SealedRecord,
    WrappedKey,
)

__all__ = ["SqliteStore", "StoreOpenError"]

# A lease of another boot is over.
_LEASED = "(lease_boot IS :boot AND lease_until > :clock)"
_SELECT_GRANTS = """
    SELECT key, brand, kind, version, sealed, purge_at, renew_at,
           unanswered, failures, retry_at, reason, lease_boot, lease_until
    FROM grants WHERE
"""
_GET_GRANT = _SELECT_GRANTS + "key = ?"
_DUE_GRANTS = (
    _SELECT_GRANTS
    + "brand = :brand AND renew_at <= :now AND unanswered = 0 "
    + "AND (retry_at IS NULL OR retry_at <= :now) AND NOT "
    + _LEASED
    + " ORDER BY renew_at LIMIT :limit"
)
_GRANTS_AFTER = _SELECT_GRANTS + "key > :key AND (:brand IS NULL OR brand = :brand) ORDER BY key LIMIT :limit"
_ENDED_GRANTS = _SELECT_GRANTS + "purge_at <= ? ORDER BY purge_at LIMIT ?"
_INSERT_GRANT = """
    INSERT INTO grants (key, brand, kind, version, sealed, purge_at, renew_at,
                        unanswered, failures, retry_at, reason)
    VALUES (:key, :brand, :kind, :version, :sealed, :purge_at, :renew_at,
            :unanswered, :failures, :retry_at, :reason)
    ON CONFLICT DO NOTHING
"""
_REPLACE_GRANT = """
    UPDATE grants
    SET brand = :brand, kind = :kind, version = :version, sealed = :sealed,
        purge_at = :purge_at, renew_at = :renew_at,
        unanswered = :unanswered, failures = :failures, retry_at = :retry_at, reason = :reason,
        lease_owner = NULL, lease_boot = NULL, lease_until = NULL
    WHERE key = :key AND version = :replaces AND (:owner IS NULL OR lease_owner = :owner)
"""
_TOUCH_GRANT = """
    UPDATE grants SET sealed = :sealed, purge_at = :purge_at, renew_at = :renew_at
    WHERE key = :key AND version = :version AND (:was IS NULL OR sealed = :was)
"""
_ACQUIRE_LEASE = f"""
    UPDATE grants
    SET lease_owner = :owner, lease_boot = :boot, lease_until = :clock + :seconds,
        unanswered = unanswered + 1
    WHERE key = :key AND version = :version AND (:was IS NULL OR sealed = :was)
      AND unanswered = :unanswered AND NOT {_LEASED}
"""  # noqa: S608 constants only
_RELEASE_LEASE = """
    UPDATE grants
    SET unanswered = :unanswered, failures = :failures, retry_at = :retry_at, reason = :reason,
        lease_owner = NULL, lease_boot = NULL, lease_until = NULL
    WHERE key = :key AND lease_owner = :owner
"""
_DELETE_GRANT = """
    DELETE FROM grants WHERE key = :key AND version = :version AND (:was IS NULL OR sealed = :was)
"""
_SELECT_DELEGATION = """
    SELECT key, context_key, brand, kind, expires_at, sealed FROM delegations WHERE key = ? AND NOT taken
"""
_IS_TAKEN = "SELECT 1 FROM delegations WHERE key = ? AND taken"
_INSERT_DELEGATION = """
    INSERT INTO delegations (key, context_key, brand, kind, expires_at, sealed) VALUES (?, ?, ?, ?, ?, ?)
"""
_INSERT_OUTCOME = """
    INSERT INTO outcomes (key, context_key, brand, kind, purge_at, sealed) VALUES (?, ?, ?, ?, ?, ?)
"""
_SELECT_OUTCOME = "SELECT key, context_key, brand, kind, purge_at, sealed FROM outcomes WHERE key = ?"
_LATEST_OUTCOMES = """
    SELECT key, context_key, brand, kind, purge_at, sealed FROM outcomes
    WHERE context_key = ? AND purge_at > ? ORDER BY purge_at DESC LIMIT ?
"""
_SET_OUTCOME = "UPDATE outcomes SET purge_at = ?, sealed = ? WHERE key = ?"
_INSERT_REVOCATION = """
    INSERT INTO revocations (id, brand, due_at, give_up_at, sealed, tries) VALUES (?, ?, ?, ?, ?, ?)
"""
_DUE_REVOCATIONS = """
    SELECT id, brand, due_at, give_up_at, sealed, tries FROM revocations
    WHERE due_at <= ? ORDER BY due_at LIMIT ?
"""

_Parameters = Mapping[str, object] | Sequence[object]


class SqliteStore:
    """`core.ports.Store` on one SQLite file. Made by `open`; used from one event loop."""

    def __init__(
        self,
        reader: Connection,
        writer: Writer,
        *,
        lease_clock: Callable[[], float],
        boot_id: str,
    ) -> None:
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
            lease_clock=lease_clock,
            boot_id=read_boot_id() if boot_id is None else boot_id,
        )

    async def get_grant(self, key: bytes) -> GrantRow | None:
        rows = self._read(_GET_GRANT, (key,))
        return self._grant(rows[0]) if rows else None

    async def put_grant(
        self,
        row: GrantRow,
        *,
        replaces: str | None,
        owner: str | None = None,
        completes: bytes | None = None,
        outcome: OutcomeRow | None = None,
    ) -> bool:
        if replaces is None and owner is not None:  # where no row is, no lease is
            return False
        values = sqlite_rows.grant_values(row) | {"replaces": replaces, "owner": owner}
        sql = _INSERT_GRANT if replaces is None else _REPLACE_GRANT

        def put(connection: Connection) -> bool:
            if completes is not None and not connection.execute(_IS_TAKEN, (completes,)).fetchall():
                return False
            written = _change(connection, sql, values) == 1
            if written and completes is not None:
                _change(connection, "DELETE FROM delegations WHERE key = ?", (completes,))
                if outcome is not None:
                    _change(connection, _SET_OUTCOME, (outcome.purge_at, outcome.sealed, outcome.key))
            return written

        return await self._writer.write(put)

    async def touch_grant(self, row: GrantRow, *, was: bytes | None = None) -> bool:
        return await self._change(_TOUCH_GRANT, sqlite_rows.grant_values(row) | {"was": was})

    async def forget_context(
        self,
        key: bytes,
        *,
        version: str | None,
        was: bytes | None = None,
        revocations: Sequence[RevocationRow] = (),
    ) -> bool:
        def forget(connection: Connection) -> bool:
            if version is None:
                if connection.execute("SELECT 1 FROM grants WHERE key = ?", (key,)).fetchall():
                    return False
            elif not _change(connection, _DELETE_GRANT, {"key": key, "version": version, "was": was}):
                return False
            connection.execute("DELETE FROM delegations WHERE context_key = ?", (key,))
            connection.execute("DELETE FROM outcomes WHERE context_key = ?", (key,))
            connection.executemany(_INSERT_REVOCATION, map(sqlite_rows.revocation_values, revocations))
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
            "version": version,
            "unanswered": unanswered,
            "owner": owner,
            "seconds": seconds,
            "was": was,
        }
        # The clock is read under the lock: waiting for it may have taken a while.
        return await self._writer.write(
            lambda connection: _change(connection, _ACQUIRE_LEASE, self._lease_time(key=key) | values) == 1
        )

    async def release_lease(self, key: bytes, *, owner: str, attempt: Attempt) -> bool:
        return await self._change(
            _RELEASE_LEASE, {"key": key, "owner": owner} | sqlite_rows.attempt_values(attempt)
        )

    async def due_grants(self, now: float, *, brand: str, limit: int) -> Sequence[GrantRow]:
        return [
            self._grant(row)
            for row in self._read(_DUE_GRANTS, self._lease_time(now=now, brand=brand, limit=limit))
        ]

    async def ended_grants(self, now: float, *, limit: int) -> Sequence[GrantRow]:
        return [self._grant(row) for row in self._read(_ENDED_GRANTS, (now, limit))]

    async def grants_after(self, key: bytes, *, brand: str | None, limit: int) -> Sequence[GrantRow]:
        values = {"key": key, "brand": brand, "limit": limit}
        return [self._grant(row) for row in self._read(_GRANTS_AFTER, values)]

    async def count(self, now: float) -> Counts:
        grants = self._read(sqlite_inspection.COUNT_GRANTS, self._lease_time(now=now))
        (others,) = self._read(sqlite_inspection.COUNT_OTHERS, ())
        return sqlite_inspection.counts(grants, others)

    async def put_delegation(self, row: DelegationRow, outcome: OutcomeRow | None = None) -> None:
        def put(connection: Connection) -> None:
            values = (row.key, row.context_key, row.brand, row.kind.value, row.expires_at, row.sealed)
            connection.execute(_INSERT_DELEGATION, values)
            if outcome is not None:
                connection.execute(_INSERT_OUTCOME, sqlite_rows.outcome_values(outcome))

        await self._writer.write(put)

    async def get_delegation(self, key: bytes) -> DelegationRow | None:
        rows = self._read(_SELECT_DELEGATION, (key,))
        return sqlite_rows.delegation(rows[0]) if rows else None

    async def take_delegation(self, key: bytes) -> bool:
        return await self._change("UPDATE delegations SET taken = 1 WHERE key = ? AND NOT taken", (key,))

    async def is_taken(self, key: bytes) -> bool:
        return bool(self._read(_IS_TAKEN, (key,)))

    async def give_back_delegation(self, key: bytes) -> bool:
        return await self._change("UPDATE delegations SET taken = 0 WHERE key = ? AND taken", (key,))

    async def purge_delegations(self, now: float) -> int:
        def purge(connection: Connection) -> int:
            connection.execute("DELETE FROM outcomes WHERE purge_at < ?", (now,))
            return _change(connection, "DELETE FROM delegations WHERE expires_at < ?", (now,))

        return await self._writer.write(purge)

    async def get_outcome(self, key: bytes) -> OutcomeRow | None:
        rows = self._read(_SELECT_OUTCOME, (key,))
        return sqlite_rows.outcome(rows[0]) if rows else None

    async def latest_outcomes(self, context_key: bytes, *, after: float, limit: int) -> Sequence[OutcomeRow]:
        rows = self._read(_LATEST_OUTCOMES, (context_key, after, limit))
        return [sqlite_rows.outcome(row) for row in rows]

    async def set_outcome(self, row: OutcomeRow) -> bool:
        return await self._change(_SET_OUTCOME, (row.purge_at, row.sealed, row.key))

    async def void_delegations(self, *, brand: str) -> int:
        def void(connection: Connection) -> int:
            connection.execute("DELETE FROM outcomes WHERE brand = ?", (brand,))
            return _change(connection, "DELETE FROM delegations WHERE brand = ?", (brand,))

        return await self._writer.write(void)

    async def add_revocations(self, rows: Sequence[RevocationRow]) -> None:
        def add(connection: Connection) -> None:
            connection.executemany(_INSERT_REVOCATION, map(sqlite_rows.revocation_values, rows))

        await self._writer.write(add)

    async def due_revocations(self, now: float, *, limit: int) -> Sequence[RevocationRow]:
        return [RevocationRow(*row) for row in self._read(_DUE_REVOCATIONS, (now, limit))]

    async def postpone_revocation(self, row_id: str, *, tries: int, due_at: float) -> bool:
        return await self._change(
            "UPDATE revocations SET tries = ?, due_at = ? WHERE id = ? AND tries = ?",
            (tries, due_at, row_id, tries - 1),
        )

    async def drop_revocation(self, row_id: str) -> None:
        await self._change("DELETE FROM revocations WHERE id = ?", (row_id,))

    async def get_keys(self) -> Sequence[WrappedKey]:
        return [WrappedKey(*row) for row in self._read(sqlite_keys.SELECT_KEYS, ())]

    async def add_keys(self, keys: Sequence[WrappedKey], *, first: bool) -> bool:
        return await self._writer.write(lambda connection: sqlite_keys.add(connection, keys, first=first))

    async def add_data_key(self, key: WrappedKey, *, after: str) -> bool:
        return await self._writer.write(lambda connection: sqlite_keys.add_data(connection, key, after=after))

    async def rewrap_keys(self, keys: Sequence[WrappedKey], *, were: Sequence[WrappedKey]) -> bool:
        return await self._writer.write(lambda connection: sqlite_keys.rewrap(connection, keys, were=were))

    async def drop_data_key(self, key_id: str, *, head: bytes) -> bool:
        return await self._change(sqlite_keys.DROP_KEY, {"id": key_id, "head": head})

    async def count_seals(self, key_id: str, more: int) -> None:
        await self._change("UPDATE keys SET seals = seals + ? WHERE id = ?", (more, key_id))

    async def sealed_records(self, head: bytes, *, limit: int) -> Sequence[SealedRecord]:
        rows = self._read(sqlite_keys.SELECT_RECORDS, {"head": head, "limit": limit})
        return [SealedRecord(*row) for row in rows]

    async def count_sealed(self, head: bytes) -> int:
        ((count,),) = self._read(sqlite_keys.COUNT_RECORDS, {"head": head})
        return int(count)

    async def reseal(self, records: Sequence[tuple[SealedRecord, bytes]]) -> int:
        return await self._writer.write(lambda connection: sqlite_keys.reseal(connection, records))

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

    async def close(self) -> None:
        await self._writer.close()
        self._reader.close()

    def _lease_time(self, **more: object) -> dict[str, object]:
        return {"boot": self._boot_id, "clock": self._lease_clock(), **more}

    def _grant(self, row: Any) -> GrantRow:
        *columns, unanswered, failures, retry_at, reason, lease_boot, lease_until = row
        key, brand, kind, version, sealed, purge_at, renew_at = columns
        leased = lease_boot == self._boot_id and lease_until > self._lease_clock()
        attempt = Attempt(leased, unanswered, failures, retry_at, reason)
        return GrantRow(key, brand, ContextKind(kind), version, sealed, purge_at, renew_at, attempt)

    def _read(self, sql: str, parameters: _Parameters) -> list[Any]:
        try:
            # All of it: a statement left half read would hold back the checkpoints.
            rows: list[Any] = self._reader.execute(sql, parameters).fetchall()
        except pysqlite3.Error as error:
            raise unavailable(error) from None
        return rows

    async def _change(self, sql: str, parameters: _Parameters) -> bool:
        return await self._writer.write(lambda connection: _change(connection, sql, parameters) == 1)


def _change(connection: Connection, sql: str, parameters: _Parameters) -> int:
    """How many rows were changed."""
    return int(connection.execute(sql, parameters).rowcount)
