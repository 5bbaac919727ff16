"""The tables of a PostgreSQL store, and how an older database becomes a current one.

The one row of `tokenvault_schema` says how many migrations the database has
seen. Who migrates locks that row, and so do changes of keys: one at a time,
by nothing but a row. Migrations go forward only, each in one transaction: a
released one is never edited, a new one is appended. It must leave the
statements of the version before it working, which serves meanwhile.
"""

from contextlib import suppress
from typing import Any

from psycopg import AsyncConnection, errors

from tokenvault_sidecar.adapters.stores import StoreOpenError
from tokenvault_sidecar.core.ports import SEALED_HEAD

Connection = AsyncConnection[tuple[Any, ...]]

# A change, of nothing: who only waited for a row that stays as it was would go by what he saw before it
# (40001 tells him, where the database's default is repeatable read).
LOCK = "UPDATE tokenvault_schema SET version = version RETURNING version"

_FOUND = "SELECT to_regclass('tokenvault_schema') IS NOT NULL, to_regclass('grants') IS NOT NULL"
_MAKE = (
    "CREATE TABLE IF NOT EXISTS tokenvault_schema"
    " (one integer PRIMARY KEY CHECK (one = 1), version integer NOT NULL)"
)
_BEGIN = "INSERT INTO tokenvault_schema (one, version) VALUES (1, 0) ON CONFLICT DO NOTHING"
# IF NOT EXISTS does not look at what another process is making just now.
_MADE_BY_ANOTHER = (
    errors.UniqueViolation,
    errors.DuplicateTable,
    errors.DuplicateObject,
    errors.SerializationFailure,
)
_TRIES = 20

_FIRST = f"""
    CREATE TABLE grants (
        key bytea PRIMARY KEY,
        brand text NOT NULL,
        kind text NOT NULL,
        version text NOT NULL,
        sealed bytea NOT NULL,
        purge_at double precision NOT NULL,
        renew_at double precision,
        unanswered integer NOT NULL,
        failures integer NOT NULL,
        retry_at double precision,
        reason text,
        lease_owner text,
        lease_until double precision
    );
    CREATE INDEX grants_due ON grants (brand, renew_at, retry_at);
    CREATE INDEX grants_purge ON grants (purge_at);
    CREATE INDEX grants_brand ON grants (brand, kind);
    CREATE INDEX grants_head ON grants (substr(sealed, 1, {SEALED_HEAD}), key);
    CREATE TABLE delegations (
        key bytea PRIMARY KEY,
        context_key bytea NOT NULL,
        brand text NOT NULL,
        kind text NOT NULL,
        expires_at double precision NOT NULL,
        sealed bytea NOT NULL,
        taken bigint NOT NULL DEFAULT 0
    );
    CREATE INDEX delegations_context ON delegations (context_key);
    CREATE INDEX delegations_expiry ON delegations (expires_at);
    CREATE INDEX delegations_head ON delegations (substr(sealed, 1, {SEALED_HEAD}), key);
    CREATE TABLE outcomes (
        key bytea PRIMARY KEY,
        context_key bytea NOT NULL,
        brand text NOT NULL,
        kind text NOT NULL,
        purge_at double precision NOT NULL,
        sealed bytea NOT NULL
    );
    CREATE INDEX outcomes_context ON outcomes (context_key);
    CREATE INDEX outcomes_purge ON outcomes (purge_at);
    CREATE INDEX outcomes_head ON outcomes (substr(sealed, 1, {SEALED_HEAD}), key);
    CREATE TABLE revocations (
        id text PRIMARY KEY,
        brand text NOT NULL,
        due_at double precision NOT NULL,
        give_up_at double precision NOT NULL,
        sealed bytea NOT NULL,
        tries integer NOT NULL
    );
    CREATE INDEX revocations_due ON revocations (due_at);
    CREATE INDEX revocations_head ON revocations (substr(sealed, 1, {SEALED_HEAD}), id);
    CREATE TABLE keys (
        id text PRIMARY KEY,
        purpose text NOT NULL,
        kek text NOT NULL,
        wrapped bytea NOT NULL,
        created_at double precision NOT NULL,
        seals bigint NOT NULL DEFAULT 0,
        number bigint GENERATED ALWAYS AS IDENTITY
    );
"""

MIGRATIONS: tuple[str, ...] = (_FIRST,)


async def schema_version(connection: Connection) -> int:
    """How many migrations it has seen. Raises StoreOpenError for another program's or a newer one."""
    ((made, used),) = await (await connection.execute(_FOUND)).fetchall()
    if not made:
        if used:
            raise StoreOpenError("holds another program's tables: name a database of the token vault's own")
        return 0
    found = await (await connection.execute("SELECT version FROM tokenvault_schema")).fetchall()
    version = int(found[0][0]) if found else 0
    if version > len(MIGRATIONS):
        raise StoreOpenError(
            f"has schema version {version}, this program knows up to {len(MIGRATIONS)}: "
            "run a newer token vault, or restore a dump made by this one"
        )
    return version


async def migrate(connection: Connection) -> None:
    """Bring the database to the current schema. Any number of processes may do so at once."""
    if await schema_version(connection) == len(MIGRATIONS):
        return
    await _make(connection)
    while await schema_version(connection) < len(MIGRATIONS):
        with suppress(errors.SerializationFailure):  # another has migrated meanwhile
            await _migrate_once(connection)


async def _migrate_once(connection: Connection) -> None:
    async with connection.transaction():
        await connection.execute("SET LOCAL statement_timeout = 0")  # an index takes as long as it takes
        ((version,),) = await (await connection.execute(LOCK)).fetchall()
        if version < len(MIGRATIONS):
            await connection.execute(MIGRATIONS[version])
            await connection.execute("UPDATE tokenvault_schema SET version = %s", (version + 1,))


async def _make(connection: Connection) -> None:
    for last in range(_TRIES):
        try:
            await connection.execute(_MAKE)
            await connection.execute(_BEGIN)
        except _MADE_BY_ANOTHER:
            if last == _TRIES - 1:
                raise
        else:
            return
