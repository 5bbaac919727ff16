"""The two kinds of store as an end of a copy, held so that nobody serves them meanwhile."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from tokenvault_sidecar.adapters.copying import CopyError, End
from tokenvault_sidecar.adapters.postgres import PostgresStore
from tokenvault_sidecar.adapters.postgres_connecting import PostgresSettings, parameters, unavailable
from tokenvault_sidecar.adapters.postgres_database import text
from tokenvault_sidecar.adapters.sqlite_backup import BackupError, seize, told
from tokenvault_sidecar.adapters.sqlite_file import open_file
from tokenvault_sidecar.adapters.stores import StoreOpenError

_LOCK_TIMEOUT = 5.0
_CLOSING = 2.0
"""Seconds for which a database may still have connections that were closed, ours among them."""
_OTHERS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'tokenvault' AND pid <> pg_backend_pid()
"""


@contextmanager
def sqlite_end(path: Path, *, make: bool) -> Iterator[End]:
    """A SQLite file of the current schema, made where there is none and `make` says so. Raises CopyError."""
    if not make and not path.is_file():
        raise CopyError(f"{path}: there is no such store")
    try:
        for connection in open_file(path, lock_timeout=_LOCK_TIMEOUT):
            connection.close()
        held = seize(path)
    except (StoreOpenError, BackupError) as problem:
        raise CopyError(str(problem)) from None
    with closing(held) as store:

        @contextmanager
        def transaction() -> Iterator[None]:
            store.execute("BEGIN")
            try:
                yield
                store.execute("COMMIT")
            finally:
                if store.in_transaction:
                    store.execute("ROLLBACK")

        def execute(statement: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
            found: list[tuple[Any, ...]] = store.execute(statement, values).fetchall()
            return found

        def insert(table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
            names, values = ", ".join(columns), ", ".join("?" * len(columns))
            store.executemany(f"INSERT INTO {table} ({names}) VALUES ({values})", rows)  # noqa: S608 constants

        try:
            with told(path):
                yield End(str(path), execute, insert, transaction, added="rowid", bytewise="")
        except BackupError as problem:
            raise CopyError(str(problem)) from None


@contextmanager
def postgres_end(name: str, settings: PostgresSettings, *, make: bool) -> Iterator[End]:
    """A PostgreSQL database of the current schema, made where it has none and `make` says so.

    Who serves it is seen by its connections: none may be there. Raises CopyError.
    """

    async def prepare() -> None:
        await (await PostgresStore.open(settings, make=make)).close()

    try:
        asyncio.run(prepare())
        with psycopg.connect(autocommit=True, prepare_threshold=None, **parameters(settings)) as connection:

            @contextmanager
            def transaction() -> Iterator[None]:
                with connection.transaction():
                    # Not for the session: a pooler would give that to a sidecar.
                    connection.execute("SET LOCAL statement_timeout = 0")
                    yield

            def execute(statement: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
                with transaction():
                    cursor = connection.execute(text(statement), values, binary=True)
                    return cursor.fetchall() if cursor.description else []

            def insert(table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
                if not rows:
                    return
                with connection.cursor().copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as stream:
                    for row in rows:
                        stream.write_row(row)

            def others() -> int:
                ((count,),) = execute(_OTHERS, {})
                return int(count)

            def check() -> None:
                if count := others():
                    raise CopyError(f"{name}: {count} connections of sidecars are open: stop them first")

            until = time.monotonic() + _CLOSING
            while others() and time.monotonic() < until:
                time.sleep(0.05)
            check()
            yield End(name, execute, insert, transaction, "number", ' COLLATE "C"', check)
            check()
    except StoreOpenError as problem:
        raise CopyError(f"{name}: {problem}") from None
    except psycopg.Error as error:
        raise CopyError(f"{name}: {unavailable(error)}") from None
