"""The tables of a SQLite store, and how an older file becomes a current one.

`PRAGMA user_version` is the number of migrations a file has seen. Migrations
go forward only: a released one is never edited, a new one is appended.
"""

import time
from collections.abc import Callable
from typing import Any, TypeVar

import pysqlite3
import sqlite_utils

from tokenvault_sidecar.core.ports import SEALED_HEAD

Connection = Any
"""A pysqlite3 connection; the library publishes no types."""

APPLICATION_ID = 0x54564C54
"""Marks a file as a token vault's: "TVLT"."""

_POLL = 0.002
_T = TypeVar("_T")


class UnusableSchema(Exception):
    """The file is not this program's to use; the text says why and what to do."""


def patiently(action: Callable[[], _T], *, deadline: float) -> _T:
    """Repeat `action` while another process holds the lock, until `deadline` on the monotonic clock.

    SQLite's own wait asks ever more rarely, up to 100 ms apart, and starves
    beside a busy writer; switching to WAL does not wait at all.
    """
    while True:
        try:
            return action()
        except pysqlite3.OperationalError as error:
            busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == pysqlite3.SQLITE_BUSY
            if not busy or time.monotonic() >= deadline:
                raise
            time.sleep(_POLL)


def schema_version(connection: Connection) -> int:
    """How many migrations the file has seen. Raises UnusableSchema for another program's or a newer file."""
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    ((application,),) = connection.execute("PRAGMA application_id").fetchall()
    ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    if application != APPLICATION_ID and (application or version or tables):
        raise UnusableSchema("is another program's database: name a file of the token vault, or a new one")
    if version > len(MIGRATIONS):
        raise UnusableSchema(
            f"has schema version {version}, this program knows up to {len(MIGRATIONS)}: "
            "run a newer token vault, or restore a backup made by this one"
        )
    return int(version)


def migrate(connection: Connection, *, deadline: float) -> None:
    """Bring the file to the current schema, each step in a transaction of its own.

    Several processes may do so at once: the version is read again under the lock.
    """
    db = sqlite_utils.Database(connection, execute_plugins=False)
    while schema_version(connection) < len(MIGRATIONS):
        patiently(lambda: connection.execute("BEGIN IMMEDIATE"), deadline=deadline)
        try:
            version = schema_version(connection)
            if version < len(MIGRATIONS):
                MIGRATIONS[version](db)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def _first(db: sqlite_utils.Database) -> None:
    db.table("grants").create(
        {
            "key": bytes,
            "brand": str,
            "kind": str,
            "version": str,
            "sealed": bytes,
            "purge_at": float,
            "renew_at": float,
            "unanswered": int,
            "failures": int,
            "retry_at": float,
            "reason": str,
            "lease_owner": str,
            "lease_boot": str,
            "lease_until": float,
        },
        pk="key",
        not_null={"key", "brand", "kind", "version", "sealed", "purge_at", "unanswered", "failures"},
        strict=True,
    )
    # `retry_at` is in the index so that grants whose server is down are passed over without reading them.
    db.table("grants").create_index(["brand", "renew_at", "retry_at"])
    db.table("grants").create_index(["purge_at"])
    db.table("delegations").create(
        {
            "key": bytes,
            "context_key": bytes,
            "brand": str,
            "kind": str,
            "expires_at": float,
            "sealed": bytes,
            "taken": int,
        },
        pk="key",
        not_null={"key", "context_key", "brand", "kind", "expires_at", "sealed", "taken"},
        defaults={"taken": 0},
        strict=True,
    )
    db.table("delegations").create_index(["context_key"])
    db.table("delegations").create_index(["expires_at"])
    db.table("revocations").create(
        {"id": str, "brand": str, "due_at": float, "give_up_at": float, "sealed": bytes, "tries": int},
        pk="id",
        not_null={"id", "brand", "due_at", "give_up_at", "sealed", "tries"},
        strict=True,
    )
    db.table("revocations").create_index(["due_at"])
    db.table("keys").create(
        {"id": str, "purpose": str, "kek": str, "wrapped": bytes, "created_at": float},
        pk="id",
        not_null={"id", "purpose", "kek", "wrapped", "created_at"},
        strict=True,
    )


def _outcomes(db: sqlite_utils.Database) -> None:
    db.table("outcomes").create(
        {"key": bytes, "context_key": bytes, "brand": str, "kind": str, "purge_at": float, "sealed": bytes},
        pk="key",
        not_null={"key", "context_key", "brand", "kind", "purge_at", "sealed"},
        strict=True,
    )
    db.table("outcomes").create_index(["context_key"])
    db.table("outcomes").create_index(["purge_at"])


def _data_keys(db: sqlite_utils.Database) -> None:
    """What rotating data keys asks for: which records a key has sealed, and how many it ever did."""
    db.execute("ALTER TABLE keys ADD COLUMN seals INTEGER NOT NULL DEFAULT 0")
    for table in ("grants", "delegations", "outcomes", "revocations"):
        db.execute(f"CREATE INDEX idx_{table}_head ON {table} (substr(sealed, 1, {SEALED_HEAD}))")


def _kinds(db: sqlite_utils.Database) -> None:
    """Grants are counted by brand and kind without reading them."""
    db.table("grants").create_index(["brand", "kind"])


def _waiting(db: sqlite_utils.Database) -> None:
    """Revocations that were tried are counted without reading them; those never due yet are not."""
    db.execute("DROP INDEX idx_revocations_due_at")
    db.table("revocations").create_index(["due_at", "tries"])


MIGRATIONS: tuple[Callable[[sqlite_utils.Database], None], ...] = (
    _first,
    _outcomes,
    _data_keys,
    _kinds,
    _waiting,
)
