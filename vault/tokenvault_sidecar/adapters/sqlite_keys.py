"""The keys in a SQLite store, and the records of every table by the data key that sealed them."""

from collections.abc import Sequence

from tokenvault_sidecar.adapters.sqlite_schema import Connection
from tokenvault_sidecar.core.ports import SEALED_HEAD, SealedRecord, WrappedKey

SELECT_KEYS = "SELECT id, purpose, kek, wrapped, created_at, seals FROM keys ORDER BY created_at, rowid"
_NEWEST_DATA_KEY = "SELECT id FROM keys WHERE purpose = 'data' ORDER BY created_at DESC, rowid DESC LIMIT 1"
_INSERT_KEY = "INSERT INTO keys (id, purpose, kek, wrapped, created_at, seals) VALUES (?, ?, ?, ?, ?, ?)"
# As the indexes have it, or they are not used.
_SEALED_SO = f"substr(sealed, 1, {SEALED_HEAD}) = :head"

SELECT_RECORDS = f"""
    SELECT 'grants', key, brand, kind, version, sealed FROM grants WHERE {_SEALED_SO}
    UNION ALL
    SELECT 'delegations', key, brand, kind, '', sealed FROM delegations WHERE {_SEALED_SO}
    UNION ALL
    SELECT 'outcomes', key, brand, kind, '', sealed FROM outcomes WHERE {_SEALED_SO}
    UNION ALL
    SELECT 'revocations', CAST(id AS BLOB), brand, '', '', sealed FROM revocations WHERE {_SEALED_SO}
    LIMIT :limit
"""  # noqa: S608 constants only
COUNT_RECORDS = f"""
    SELECT (SELECT count(*) FROM grants WHERE {_SEALED_SO})
         + (SELECT count(*) FROM delegations WHERE {_SEALED_SO})
         + (SELECT count(*) FROM outcomes WHERE {_SEALED_SO})
         + (SELECT count(*) FROM revocations WHERE {_SEALED_SO})
"""  # noqa: S608 constants only
DROP_KEY = f"""
    DELETE FROM keys WHERE id = :id AND purpose = 'data'
      AND NOT EXISTS (SELECT 1 FROM grants WHERE {_SEALED_SO})
      AND NOT EXISTS (SELECT 1 FROM delegations WHERE {_SEALED_SO})
      AND NOT EXISTS (SELECT 1 FROM outcomes WHERE {_SEALED_SO})
      AND NOT EXISTS (SELECT 1 FROM revocations WHERE {_SEALED_SO})
"""  # noqa: S608 constants only
_RESEAL = {
    "grants": "UPDATE grants SET sealed = ? WHERE key = ? AND sealed = ?",
    "delegations": "UPDATE delegations SET sealed = ? WHERE key = ? AND sealed = ?",
    "outcomes": "UPDATE outcomes SET sealed = ? WHERE key = ? AND sealed = ?",
    "revocations": "UPDATE revocations SET sealed = ? WHERE id = CAST(? AS TEXT) AND sealed = ?",
}


def add(connection: Connection, keys: Sequence[WrappedKey], *, first: bool) -> bool:
    """Add them all; with `first` only where there are none."""
    if first and connection.execute("SELECT 1 FROM keys LIMIT 1").fetchall():
        return False
    values = [(key.id, key.purpose, key.kek, key.wrapped, key.created_at, key.seals) for key in keys]
    connection.executemany(_INSERT_KEY, values)
    return True


def add_data(connection: Connection, key: WrappedKey, *, after: str) -> bool:
    """Add it where `after` is the newest data key."""
    return connection.execute(_NEWEST_DATA_KEY).fetchall() == [(after,)] and add(
        connection, [key], first=False
    )


def rewrap(connection: Connection, keys: Sequence[WrappedKey], *, were: Sequence[WrappedKey]) -> bool:
    """Write how each is wrapped now, where all of them are wrapped as they were."""
    found = connection.execute("SELECT id, wrapped FROM keys").fetchall()
    if sorted(found) != sorted((key.id, key.wrapped) for key in were):
        return False
    values = [(key.kek, key.wrapped, key.id) for key in keys]
    connection.executemany("UPDATE keys SET kek = ?, wrapped = ? WHERE id = ?", values)
    return True


def reseal(connection: Connection, records: Sequence[tuple[SealedRecord, bytes]]) -> int:
    """Write each record's new seal where it has the old one still; how many did."""
    changed = 0
    for record, sealed in records:
        parameters = (sealed, record.key, record.sealed)
        changed += int(connection.execute(_RESEAL[record.table], parameters).rowcount)
    return changed
