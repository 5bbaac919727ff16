"""The keys in a PostgreSQL store, and the records of every table by the data key that sealed them.

What changes keys locks the schema's row first: one at a time does so.
"""

from collections.abc import Sequence

from tokenvault_sidecar.adapters import rows
from tokenvault_sidecar.adapters import statements as sql
from tokenvault_sidecar.adapters.postgres_database import execute, execute_many, fetch
from tokenvault_sidecar.adapters.postgres_schema import LOCK, Connection
from tokenvault_sidecar.adapters.statements import SEALED_SO
from tokenvault_sidecar.core.ports import SealedRecord, WrappedKey

SELECT_KEYS = "SELECT id, purpose, kek, wrapped, created_at, seals FROM keys ORDER BY created_at, number"
_NEWEST_DATA_KEY = (
    "SELECT id, kek FROM keys WHERE purpose = 'data' ORDER BY created_at DESC, number DESC LIMIT 1"
)

# In each table in the order of its keys: that of its rows changes with them.
SELECT_RECORDS = f"""
    (SELECT 'grants', key, brand, kind, version, sealed FROM grants
     WHERE {SEALED_SO} ORDER BY key LIMIT :limit)
    UNION ALL
    (SELECT 'delegations', key, brand, kind, '', sealed FROM delegations
     WHERE {SEALED_SO} ORDER BY key LIMIT :limit)
    UNION ALL
    (SELECT 'outcomes', key, brand, kind, '', sealed FROM outcomes
     WHERE {SEALED_SO} ORDER BY key LIMIT :limit)
    UNION ALL
    (SELECT 'revocations', convert_to(id, 'UTF8'), brand, '', '', sealed FROM revocations
     WHERE {SEALED_SO} ORDER BY id LIMIT :limit)
    LIMIT :limit
"""  # noqa: S608 constants only


async def add(connection: Connection, keys: Sequence[WrappedKey], *, first: bool) -> bool:
    """Add them all; with `first` only where there is nothing."""
    async with connection.transaction():
        await execute(connection, LOCK)
        if first and await fetch(connection, sql.IS_USED):
            return False
        await execute_many(connection, sql.INSERT_KEY, map(rows.key_values, keys))
        return True


async def add_data(connection: Connection, key: WrappedKey, *, after: str) -> bool:
    """Add it where `after` is the newest data key, wrapped by the same KEK."""
    async with connection.transaction():
        await execute(connection, LOCK)
        if await fetch(connection, _NEWEST_DATA_KEY) != [(after, key.kek)]:
            return False
        await execute(connection, sql.INSERT_KEY, rows.key_values(key))
        return True


async def rewrap(connection: Connection, keys: Sequence[WrappedKey], *, were: Sequence[WrappedKey]) -> bool:
    """Write how each is wrapped now, where all of them are wrapped as they were."""
    async with connection.transaction():
        await execute(connection, LOCK)
        found = await fetch(connection, sql.WRAPPED)
        if sorted(found) != sorted((key.id, key.wrapped) for key in were):
            return False
        await execute_many(connection, sql.REWRAP_KEY, map(rows.key_values, keys))
        return True


async def reseal(connection: Connection, records: Sequence[tuple[SealedRecord, bytes]]) -> int:
    """Write each record's new seal where it has the old one still; how many did."""
    changed = 0
    async with connection.transaction():
        for table, statement in sql.RESEAL.items():
            values = [rows.reseal_values(record, anew) for record, anew in records if record.table == table]
            changed += await execute_many(connection, statement, values)
    return changed
