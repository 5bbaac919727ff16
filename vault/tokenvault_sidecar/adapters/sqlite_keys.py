"""The keys in a SQLite store, and the records of every table by the data key that sealed them."""

from collections.abc import Sequence

from tokenvault_sidecar.adapters import rows
from tokenvault_sidecar.adapters import statements as sql
from tokenvault_sidecar.adapters.sqlite_schema import Connection
from tokenvault_sidecar.adapters.statements import SEALED_SO
from tokenvault_sidecar.core.ports import WrappedKey

SELECT_KEYS = "SELECT id, purpose, kek, wrapped, created_at, seals FROM keys ORDER BY created_at, rowid"
_NEWEST_DATA_KEY = (
    "SELECT id, kek FROM keys WHERE purpose = 'data' ORDER BY created_at DESC, rowid DESC LIMIT 1"
)

SELECT_RECORDS = f"""
    SELECT 'grants', key, brand, kind, version, sealed FROM grants WHERE {SEALED_SO}
    UNION ALL
    SELECT 'delegations', key, brand, kind, '', sealed FROM delegations WHERE {SEALED_SO}
    UNION ALL
    SELECT 'outcomes', key, brand, kind, '', sealed FROM outcomes WHERE {SEALED_SO}
    UNION ALL
    SELECT 'revocations', CAST(id AS BLOB), brand, '', '', sealed FROM revocations WHERE {SEALED_SO}
    LIMIT :limit
"""  # noqa: S608 constants only


def add(connection: Connection, keys: Sequence[WrappedKey], *, first: bool) -> bool:
    """Add them all; with `first` only where there is nothing."""
    if first and connection.execute(sql.IS_USED).fetchall():
        return False
    connection.executemany(sql.INSERT_KEY, map(rows.key_values, keys))
    return True


def add_data(connection: Connection, key: WrappedKey, *, after: str) -> bool:
    """Add it where `after` is the newest data key, wrapped by the same KEK."""
    newest = connection.execute(_NEWEST_DATA_KEY).fetchall()
    return newest == [(after, key.kek)] and add(connection, [key], first=False)


def rewrap(connection: Connection, keys: Sequence[WrappedKey], *, were: Sequence[WrappedKey]) -> bool:
    """Write how each is wrapped now, where all of them are wrapped as they were."""
    found = connection.execute(sql.WRAPPED).fetchall()
    if sorted(found) != sorted((key.id, key.wrapped) for key in were):
        return False
    connection.executemany(sql.REWRAP_KEY, map(rows.key_values, keys))
    return True
