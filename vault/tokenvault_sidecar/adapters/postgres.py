"""The store in a PostgreSQL database, shared by any number of sidecars.

Every change is a compare-and-swap: a statement by itself, or a short
transaction that locks rows in one order, delegations before grants. Nothing
hangs on session state, advisory locks or a high isolation level, so that it
holds behind a pooler and where only PostgreSQL's protocol is spoken. Leases
are kept by the database's clock, the one that all sidecars share.
"""

import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Self

import psycopg

from tokenvault_sidecar.adapters import postgres_keys, rows
from tokenvault_sidecar.adapters import statements as sql
from tokenvault_sidecar.adapters.postgres_connecting import PostgresSettings, connect, unavailable
from tokenvault_sidecar.adapters.postgres_connections import Connections
from tokenvault_sidecar.adapters.postgres_database import (
    Database,
    changed,
    execute,
    execute_many,
    fetch,
    happened,
)
from tokenvault_sidecar.adapters.postgres_schema import Connection, migrate, schema_version
from tokenvault_sidecar.adapters.statements import lease_statements
from tokenvault_sidecar.adapters.stores import Load, StoreOpenError
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
    Stock,
    WrappedKey,
)

DATABASE_CLOCK = "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"
"""Seconds on the database's clock, in SQL."""

_UNDO_SECONDS = 600.0

_IS_LEASED = "SELECT 1 FROM grants WHERE key = :key AND lease_owner = :owner"
_UNDO_LEASE = """
    UPDATE grants SET lease_owner = NULL, lease_until = NULL, unanswered = unanswered - 1
    WHERE key = :key AND lease_owner = :owner
"""
_IS_TAKEN_BY = "SELECT 1 FROM delegations WHERE key = :key AND taken = :taker"
_PROBE = "SELECT current_setting('transaction_read_only') FROM tokenvault_schema"
_NEEDS_ROOM = """
    INSERT INTO outcomes (key, context_key, brand, kind, purge_at, sealed)
    VALUES (:key, :key, '', '', 0, :sealed)
"""
_ROOM = 16_384
"""Bytes: more than a page has."""


class PostgresStore:
    """`core.ports.Store` on one PostgreSQL database. Made by `open`; used from one event loop."""

    def __init__(self, connections: Connections, *, lease_clock: str = DATABASE_CLOCK) -> None:
        self._connections = connections
        self._database = Database(connections)
        self._leases = lease_statements(
            leased=f"coalesce(lease_until + :grace > {lease_clock}, FALSE)",
            begin=f"lease_until = {lease_clock} + :seconds",
        )

    @classmethod
    async def open(cls, settings: PostgresSettings, *, make: bool = True) -> Self:
        """Connect and migrate; with `make` False only what is a store already. Raises StoreOpenError."""
        try:
            connection = await connect(settings)
            async with connection:
                if not make and await schema_version(connection) == 0:
                    raise StoreOpenError("holds no store yet: the first start of a sidecar makes it")
                await migrate(connection)
                address = connection.info.hostaddr
        except StoreUnavailable as error:
            raise StoreOpenError(error.message) from None
        except psycopg.Error as error:
            raise StoreOpenError(unavailable(error).message) from None
        return cls(Connections(settings, address=address, is_new=True))

    async def get_grant(self, key: bytes) -> GrantRow | None:
        found = await self._database.read(self._leases.get, self._graced(key=key))
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

        async def put(connection: Connection) -> bool:
            if completes is None:
                return await changed(connection, statement, values)
            async with connection.transaction():
                if not await _completes(connection, completes):
                    return False
                if not await changed(connection, statement, values):
                    return False
                await execute(connection, sql.DELETE_DELEGATION, {"key": completes.key})
                for row_id in completes.revocations:
                    await execute(connection, sql.DROP_REVOCATION, {"id": row_id})
                await _put_outcome(connection, completes.outcome)
                return True

        return await self._database.write(put, done=_is_sealed_so(row))

    async def touch_grant(self, row: GrantRow, *, was: bytes | None = None) -> bool:
        values = rows.grant_values(row) | {"was": was}
        return await self._database.write(
            lambda connection: changed(connection, sql.TOUCH_GRANT, values), done=_is_sealed_so(row)
        )

    async def forget_context(
        self,
        key: bytes,
        *,
        version: str | None,
        was: bytes | None = None,
        revocations: Sequence[RevocationRow] = (),
        voids: bool = True,
    ) -> bool:
        async def forget(connection: Connection) -> bool:
            async with connection.transaction():
                if voids:
                    # First: who completes one of these holds it, and has put the grant before we look for it.
                    await execute(connection, sql.VOID_CONTEXT, {"key": key})
                if version is None:
                    expected = not await fetch(connection, sql.IS_GRANT, {"key": key})
                else:
                    values = {"key": key, "version": version, "was": was}
                    expected = await changed(connection, sql.DELETE_GRANT, values)
                if not expected:
                    raise psycopg.Rollback
                if voids:
                    await execute(connection, sql.FORGET_OUTCOMES, {"key": key})
                await execute_many(
                    connection, sql.INSERT_REVOCATION, map(rows.revocation_values, revocations)
                )
                return True
            return False

        return await self._database.write(forget, done=_are_queued(revocations))

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
        return await self._database.claim(
            self._leases.acquire,
            self._graced(**values),
            done=(_IS_LEASED, values),
            undo=_UNDO_LEASE,
            seconds=seconds,
        )

    async def release_lease(self, key: bytes, *, owner: str, attempt: Attempt) -> bool:
        values = {"key": key, "owner": owner} | rows.attempt_values(attempt)
        return await self._database.change(sql.RELEASE_LEASE, values)

    async def due_grants(self, now: float, *, brand: str, limit: int) -> Sequence[GrantRow]:
        values = self._graced(now=now, brand=brand, limit=limit)
        return [rows.grant(row) for row in await self._database.read(self._leases.due, values)]

    async def ended_grants(self, now: float, *, limit: int) -> Sequence[GrantRow]:
        found = await self._database.read(self._leases.ended, self._graced(now=now, limit=limit))
        return [rows.grant(row) for row in found]

    async def grants_after(self, key: bytes, *, brand: str | None, limit: int) -> Sequence[GrantRow]:
        values = self._graced(key=key, brand=brand, limit=limit)
        return [rows.grant(row) for row in await self._database.read(self._leases.after, values)]

    async def count(self, now: float) -> Counts:
        grants = await self._database.count(self._leases.count, self._graced(now=now))
        (others,) = await self._database.count(sql.COUNT_OTHERS, {"now": now})
        return rows.counts(grants, others)

    async def put_delegation(self, row: DelegationRow, outcome: OutcomeRow | None = None) -> None:
        async def put(connection: Connection) -> bool:
            async with connection.transaction():
                await execute(connection, sql.INSERT_DELEGATION, rows.delegation_values(row))
                if outcome is not None:
                    await execute(connection, sql.INSERT_OUTCOME, rows.outcome_values(outcome))
            return True

        await self._database.write(put, done=_is_delegation(row))

    async def get_delegation(self, key: bytes) -> DelegationRow | None:
        found = await self._database.read(sql.GET_DELEGATION, {"key": key})
        return rows.delegation(found[0]) if found else None

    async def take_delegation(self, key: bytes) -> int | None:
        taker = rows.new_taker()
        values = {"key": key, "taker": taker}
        taken = await self._database.claim(
            sql.TAKE_DELEGATION,
            values,
            done=(_IS_TAKEN_BY, values),
            undo=sql.GIVE_BACK_DELEGATION,
            seconds=_UNDO_SECONDS,
        )
        return taker if taken else None

    async def get_taken(self, key: bytes) -> DelegationRow | None:
        found = await self._database.read(sql.GET_TAKEN, {"key": key})
        return rows.delegation(found[0]) if found else None

    async def change_taken(
        self,
        row: DelegationRow,
        *,
        was: bytes,
        outcome: OutcomeRow | None = None,
        revocations: Sequence[RevocationRow] = (),
    ) -> bool:
        values = rows.delegation_values(row) | {"was": was}

        async def change(connection: Connection) -> bool:
            async with connection.transaction():
                if not await changed(connection, sql.CHANGE_TAKEN, values):
                    return False
                await _put_outcome(connection, outcome)
                await execute_many(
                    connection, sql.INSERT_REVOCATION, map(rows.revocation_values, revocations)
                )
                return True

        return await self._database.write(change, done=_is_delegation(row))

    async def end_taken(self, row: DelegationRow, *, outcome: OutcomeRow) -> bool:
        async def end(connection: Connection) -> bool:
            async with connection.transaction():
                if not await changed(connection, sql.END_TAKEN, {"key": row.key, "sealed": row.sealed}):
                    return False
                await _put_outcome(connection, outcome)
                return True

        there = "SELECT 1 FROM outcomes WHERE key = :key AND sealed = :sealed"
        values = {"key": outcome.key, "sealed": outcome.sealed}
        return await self._database.write(end, done=happened(there, values))

    async def give_back_delegation(self, key: bytes, taker: int) -> bool:
        return await self._database.change(sql.GIVE_BACK_DELEGATION, {"key": key, "taker": taker})

    async def purge_delegations(self, now: float, *, taken: float) -> int:
        async def purge(connection: Connection) -> int:
            await execute(connection, sql.PURGE_OUTCOMES, {"now": now})
            return (await execute(connection, sql.PURGE_DELEGATIONS, {"now": now, "taken": taken})).rowcount

        return await self._database.write(purge)

    async def get_outcome(self, key: bytes) -> OutcomeRow | None:
        found = await self._database.read(sql.GET_OUTCOME, {"key": key})
        return rows.outcome(found[0]) if found else None

    async def latest_outcomes(self, context_key: bytes, *, after: float, limit: int) -> Sequence[OutcomeRow]:
        values = {"context_key": context_key, "after": after, "limit": limit}
        return [rows.outcome(row) for row in await self._database.read(sql.LATEST_OUTCOMES, values)]

    async def set_outcome(self, row: OutcomeRow) -> bool:
        return await self._database.change(sql.SET_OUTCOME, rows.outcome_values(row))

    async def void_delegations(self, *, brand: str) -> int:
        async def void(connection: Connection) -> int:
            async with connection.transaction():
                cursor = await execute(connection, sql.VOID_BRAND, {"brand": brand})
                await execute(connection, sql.VOID_OUTCOMES, {"brand": brand})
            return cursor.rowcount

        return await self._database.write(void)

    async def add_revocations(self, revocations: Sequence[RevocationRow]) -> None:
        async def add(connection: Connection) -> bool:
            async with connection.transaction():
                await execute_many(
                    connection, sql.INSERT_REVOCATION, map(rows.revocation_values, revocations)
                )
            return True

        await self._database.write(add, done=_are_queued(revocations))

    async def due_revocations(self, now: float, *, limit: int) -> Sequence[RevocationRow]:
        found = await self._database.read(sql.DUE_REVOCATIONS, {"now": now, "limit": limit})
        return [RevocationRow(*row) for row in found]

    async def postpone_revocation(self, row_id: str, *, tries: int, due_at: float) -> bool:
        values = {"id": row_id, "tries": tries, "due_at": due_at}
        return await self._database.change(sql.POSTPONE_REVOCATION, values)

    async def drop_revocation(self, row_id: str) -> None:
        await self._database.change(sql.DROP_REVOCATION, {"id": row_id})

    async def get_keys(self) -> Sequence[WrappedKey]:
        return [WrappedKey(*row) for row in await self._database.read(postgres_keys.SELECT_KEYS)]

    async def add_keys(self, keys: Sequence[WrappedKey], *, first: bool) -> bool:
        return await self._database.write(
            lambda connection: postgres_keys.add(connection, keys, first=first), done=_is_key(keys[0])
        )

    async def add_data_key(self, key: WrappedKey, *, after: str) -> bool:
        return await self._database.write(
            lambda connection: postgres_keys.add_data(connection, key, after=after), done=_is_key(key)
        )

    async def rewrap_keys(self, keys: Sequence[WrappedKey], *, were: Sequence[WrappedKey]) -> bool:
        return await self._database.write(
            lambda connection: postgres_keys.rewrap(connection, keys, were=were)
        )

    async def drop_data_key(self, key_id: str, *, head: bytes) -> bool:
        return await self._database.change(sql.DROP_KEY, {"id": key_id, "head": head})

    async def count_seals(self, key_id: str, more: int) -> None:
        await self._database.change(sql.COUNT_SEALS, {"id": key_id, "more": more})

    async def sealed_records(self, head: bytes, *, limit: int) -> Sequence[SealedRecord]:
        values = {"head": head, "limit": limit}
        return [SealedRecord(*row) for row in await self._database.read(postgres_keys.SELECT_RECORDS, values)]

    async def count_sealed(self, head: bytes) -> int:
        ((count,),) = await self._database.count(sql.COUNT_SEALED, {"head": head})
        return int(count)

    async def reseal(self, records: Sequence[tuple[SealedRecord, bytes]]) -> int:
        return await self._database.write(lambda connection: postgres_keys.reseal(connection, records))

    @property
    def load(self) -> Load:
        """What was written, and what waits for a connection."""
        return self._database.load

    async def probe(self) -> None:
        """Ask whether the database takes writes; only where its disk was full, by one that is taken back."""
        found = await self._database.read(_PROBE)
        if found != [("off",)]:
            raise StoreUnavailable("the database takes no writes: look for the server that does")
        if self._database.is_full:
            await self._database.write(_take_room)
            self._database.is_full = False

    async def take_stock(self, brands: Iterable[str], now: float) -> Stock:
        """Count, through indexes. Raises StoreUnavailable."""
        read = self._database.read
        grants = await self._database.count(sql.STOCK_GRANTS)
        due = {
            brand: row[0]
            for brand in brands
            for row in await read(sql.STOCK_NEXT_DUE, {"brand": brand, "now": now})
        }
        ((waiting,),) = await self._database.count(sql.STOCK_REVOCATIONS, {"now": now})
        ((created,),) = await read(sql.STOCK_YOUNGEST_KEY)
        return Stock({(brand, kind): number for brand, kind, number in grants}, due, waiting, created)

    async def schema_version(self) -> int:
        """How many migrations the database has seen."""
        ((version,),) = await self._database.read("SELECT version FROM tokenvault_schema")
        return int(version)

    async def size(self) -> int:
        """Bytes that the database takes."""
        ((size,),) = await self._database.read("SELECT pg_database_size(current_database())")
        return int(size)

    async def close(self) -> None:
        await self._database.close()

    def _graced(self, **values: object) -> dict[str, object]:
        return {"grace": self._connections.grace, **values}


async def _take_room(connection: Connection) -> None:
    """Write what needs new pages, and take it back."""
    values = {"key": secrets.token_bytes(32), "sealed": secrets.token_bytes(_ROOM)}
    async with connection.transaction(force_rollback=True):
        await execute(connection, _NEEDS_ROOM, values)


async def _completes(connection: Connection, completion: Completion) -> bool:
    """Whether the delegation and the revocations are as they must be; then they are locked."""
    values = {"key": completion.key, "was": completion.was}
    if not await fetch(connection, sql.IS_TAKEN + " FOR UPDATE", values):
        return False
    for row_id in completion.revocations:
        if not await fetch(connection, sql.IS_UNTRIED + " FOR UPDATE", {"id": row_id}):
            return False
    return True


async def _put_outcome(connection: Connection, outcome: OutcomeRow | None) -> None:
    if outcome is not None:
        await execute(connection, sql.PUT_OUTCOME, rows.outcome_values(outcome))


def _is_delegation(row: DelegationRow) -> Callable[[Connection], Awaitable[bool | None]]:
    there = "SELECT 1 FROM delegations WHERE key = :key AND sealed = :sealed"
    return happened(there, {"key": row.key, "sealed": row.sealed})


def _is_sealed_so(row: GrantRow) -> Callable[[Connection], Awaitable[bool | None]]:
    """No two seals are the same: whose it is has written the row."""
    there = "SELECT 1 FROM grants WHERE key = :key AND version = :version AND sealed = :sealed"
    return happened(there, {"key": row.key, "version": row.version, "sealed": row.sealed})


def _are_queued(revocations: Sequence[RevocationRow]) -> Callable[[Connection], Awaitable[bool | None]]:
    ids = [row.id for row in revocations]
    return happened("SELECT 1 FROM revocations WHERE id = ANY(:ids) LIMIT 1", {"ids": ids})


def _is_key(key: WrappedKey) -> Callable[[Connection], Awaitable[bool | None]]:
    return happened("SELECT 1 FROM keys WHERE id = :id AND wrapped = :wrapped", rows.key_values(key))
