"""Statements sent to a PostgreSQL database, and sent again where that is safe.

Where a connection breaks a read is repeated; a change, too, having asked whether
the first one had happened, and once more where the second changes nothing: the
first may have been on its way still. What collides with another (SQLSTATE
40001, 40P01) is repeated a few times.
"""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncCursor

from tokenvault_sidecar.adapters.postgres_connecting import ANSWER, unavailable
from tokenvault_sidecar.adapters.postgres_connections import ConnectionBroke, Connections, InDoubt
from tokenvault_sidecar.adapters.postgres_schema import Connection
from tokenvault_sidecar.adapters.stores import Load
from tokenvault_sidecar.core.errors import StoreUnavailable

_COUNTING = 60.0
"""Seconds for a statement that reads a table from end to end."""

_TRIES = 12
_LONGEST_PAUSE = 0.5
"""Seconds between two of them that collided."""

Values = Mapping[str, object]
_T = TypeVar("_T")


def happened(statement: str, values: Values) -> Callable[[Connection], Awaitable[bool | None]]:
    """For `Database.write`: a change has happened where this finds a row; then True is its result."""

    async def ask(connection: Connection) -> bool | None:
        return bool(await fetch(connection, statement, values)) or None

    return ask


class Database:
    """Sends statements; what is under way goes on when its caller is cancelled."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._load = Load()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._undoing: set[asyncio.Task[None]] = set()
        self.is_full = False
        """A write has failed for want of room. It stays so until somebody has seen that there is some."""

    @property
    def load(self) -> Load:
        """As of now."""
        return replace(self._load, waiting=self._connections.waiting)

    async def read(self, statement: str, values: Values | None = None) -> list[Any]:
        """All rows it finds. Raises StoreUnavailable."""
        return await self._apart(lambda connection: fetch(connection, statement, values), None, ANSWER)

    async def count(self, statement: str, values: Values | None = None) -> list[Any]:
        """As `read`, from end to end, which takes its time: for commands and figures."""

        async def patiently(connection: Connection) -> list[Any]:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL statement_timeout = '{_COUNTING:g}s'")
                return await fetch(connection, statement, values)

        return await self._apart(patiently, None, _COUNTING + ANSWER)

    async def change(self, statement: str, values: Values, *, done: tuple[str, Values] | None = None) -> bool:
        """Whether it changed one row. `done` finds a row where it has; raises as `write`."""
        return await self.write(
            lambda connection: changed(connection, statement, values), done=happened(*done) if done else None
        )

    async def write(
        self,
        work: Callable[[Connection], Awaitable[_T]],
        *,
        done: Callable[[Connection], Awaitable[_T | None]] | None = None,
    ) -> _T:
        """Do the work, which is one statement or one transaction; again where it collided.

        Where the connection broke, `done` is asked before and after: what it gives
        was the result, None means that nothing had happened. Raises StoreUnavailable,
        or ValueError for a row whose key is taken.
        """
        begin = time.monotonic()
        result = await self._apart(work, done, ANSWER)
        self._load.seconds += time.monotonic() - begin
        self._load.commits += 1
        self._load.writes += 1
        return result

    async def claim(
        self, statement: str, values: Values, *, done: tuple[str, Values], undo: str, seconds: float
    ) -> bool:
        """As `change`; but where it stays in doubt it is undone, as soon as that can be, for so long."""
        try:
            return await self.change(statement, values, done=done)
        except InDoubt:
            task = asyncio.get_running_loop().create_task(self._undo(undo, values, seconds), name="undo")
            self._undoing.add(task)
            task.add_done_callback(self._undoing.discard)
            raise

    async def close(self) -> None:
        """Finish what is under way, and let go of the server."""
        for task in self._undoing:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._connections.close()

    async def _undo(self, statement: str, values: Values, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    await asyncio.sleep(random.uniform(0.2, 1.0))  # noqa: S311 no secret
                    with suppress(StoreUnavailable):
                        await self.change(statement, values)
                        return

    async def _apart(
        self,
        work: Callable[[Connection], Awaitable[_T]],
        done: Callable[[Connection], Awaitable[_T | None]] | None,
        seconds: float,
    ) -> _T:
        # A statement that is cancelled would take its connection with it.
        task = asyncio.get_running_loop().create_task(self._persist(work, done, seconds), name="store")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _persist(
        self,
        work: Callable[[Connection], Awaitable[_T]],
        done: Callable[[Connection], Awaitable[_T | None]] | None,
        seconds: float,
    ) -> _T:
        in_doubt = False
        for tries in range(_TRIES):
            try:
                async with self._connections.use(seconds) as connection:
                    if in_doubt and done is not None:
                        return await _again(connection, work, done)
                    return await work(connection)
            except (ConnectionBroke, psycopg.errors.StatementCompletionUnknown):
                in_doubt = True
            except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected):
                pause = min(0.02 * 2**tries, _LONGEST_PAUSE)
                await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 no secret
            except psycopg.IntegrityError:
                raise ValueError("a row of this key is there already, or a value is missing") from None
            except (StoreUnavailable, psycopg.Error) as error:
                told = unavailable(error) if isinstance(error, psycopg.Error) else error
                self.is_full = self.is_full or isinstance(error, psycopg.errors.DiskFull)
                if in_doubt:
                    raise InDoubt(told.message, retry_after=told.retry_after) from None
                raise told from None
        if in_doubt:
            raise InDoubt("the database ends every connection: look at its log", retry_after=1.0)
        raise StoreUnavailable("others change the same all the time: ask again", retry_after=1.0)


async def _again(
    connection: Connection,
    work: Callable[[Connection], Awaitable[_T]],
    done: Callable[[Connection], Awaitable[_T | None]],
) -> _T:
    """What broke off, where it has not happened; the first may still do so, and before this."""
    if (earlier := await done(connection)) is not None:
        return earlier
    try:
        if result := await work(connection):
            return result
    except psycopg.IntegrityError:
        if (earlier := await done(connection)) is not None:
            return earlier
        raise
    earlier = await done(connection)
    return result if earlier is None else earlier


async def execute(
    connection: Connection, statement: str, values: Values | None = None
) -> AsyncCursor[tuple[Any, ...]]:
    """Send a statement with `:name` for each parameter."""
    return await connection.execute(text(statement), values, binary=True)


async def fetch(connection: Connection, statement: str, values: Values | None = None) -> list[Any]:
    """All rows it finds."""
    return await (await execute(connection, statement, values)).fetchall()


async def changed(connection: Connection, statement: str, values: Values) -> bool:
    """Whether it changed one row."""
    return (await execute(connection, statement, values)).rowcount == 1


async def execute_many(connection: Connection, statement: str, values: Iterable[Values]) -> int:
    """Send it once for each, together; how many rows they changed."""
    rows = list(values)
    if not rows:
        return 0
    async with connection.cursor() as cursor:
        await cursor.executemany(text(statement), rows)
        return cursor.rowcount


@cache
def text(statement: str) -> str:
    """The statement with its parameters as psycopg writes them."""
    return re.sub(r":(\w+)", r"%(\1)s", statement)
