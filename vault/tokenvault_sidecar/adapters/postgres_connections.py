"""Connections to a PostgreSQL database: few, shared, and given up on at once where it is away.

Not psycopg_pool: while a database is away that keeps callers waiting for its
time-out, comes back by ever longer pauses, and tells the reason to a log only.
"""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Self

import psycopg

from tokenvault_sidecar.adapters.postgres_connecting import RETRY_AFTER, PostgresSettings, connect
from tokenvault_sidecar.adapters.postgres_schema import Connection
from tokenvault_sidecar.core.errors import StoreUnavailable

_QUEUE = 5.0
"""Seconds to wait for a connection that others use."""

_AWAY = 0.5
"""Seconds after a failure to connect until it is tried again: by one caller, while the others are told."""

_LONGEST = 900.0
"""Seconds after which a connection is replaced: passwords and servers change."""

_GRACE = 5.0
"""Seconds; an answer that could not be stored is tried again every two."""


class InDoubt(StoreUnavailable):
    """What was last sent may have happened, or may yet."""


class ConnectionBroke(Exception):
    """While it was used. Whether what was last sent has happened is not known."""


class Connections:
    """Up to `settings.connections`, made when they are needed."""

    def __init__(
        self, settings: PostgresSettings, *, address: str | None = None, is_new: bool = False
    ) -> None:
        """`address`: where the database was last.

        `is_new`: this process has just begun, and cannot know of an outage before.
        """
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.connections)
        self._idle: list[tuple[Connection, float]] = []
        self._away: tuple[StoreUnavailable, float] | None = None
        self._address = address
        self._trying = False
        self._closed = False
        self._broke_at = time.monotonic() if is_new else -_GRACE
        self.waiting = 0

    @property
    def grace(self) -> float:
        """Seconds to add to leases: after an outage their holders come first, with what waits in memory."""
        return _GRACE if time.monotonic() < self._broke_at + _GRACE else 0.0

    @asynccontextmanager
    async def use(self, seconds: float) -> AsyncIterator[Connection]:
        """A connection, for this long: then it is cut. Not for a task that is cancelled.

        Raises StoreUnavailable, ConnectionBroke, and the other errors of psycopg.
        """
        await self._wait_for_slot()
        try:
            connection, made_at = await self._take()
            with _Cut(connection, seconds) as cut:
                try:
                    yield connection
                except psycopg.Error as error:
                    if cut.done:
                        self._drop_idle()
                        raise InDoubt(
                            f"the database did not answer within {seconds:g} s: look at its load and locks",
                            retry_after=RETRY_AFTER,
                        ) from None
                    if connection.broken or connection.closed or _is_elsewhere(error):
                        await connection.close()
                        self._broke_at = time.monotonic()
                        self._drop_idle()  # what one connection met, the others did most likely
                        raise ConnectionBroke from None
                    raise
                finally:
                    await self._put_back(connection, made_at)
        finally:
            self._slots.release()

    async def close(self) -> None:
        """Close those nobody uses, now, and the others once they are not."""
        self._closed = True
        idle, self._idle = self._idle, []
        for connection, _ in idle:
            await connection.close()

    async def _wait_for_slot(self) -> None:
        if not self._idle:
            self._refuse()
        self.waiting += 1
        try:
            async with asyncio.timeout(_QUEUE):
                await self._slots.acquire()
        except TimeoutError:
            raise StoreUnavailable(
                "all connections to the database are in use: look at its load, or raise store.connections",
                retry_after=RETRY_AFTER,
            ) from None
        finally:
            self.waiting -= 1

    def _refuse(self) -> None:
        """Raises what the last connecting did, while it is too early for another try."""
        if self._closed:  # no connection is idle then
            raise StoreUnavailable("the store is closed: the sidecar is stopping", retry_after=RETRY_AFTER)
        if self._away is not None and (self._trying or time.monotonic() < self._away[1]):
            raise StoreUnavailable(self._away[0].message, retry_after=RETRY_AFTER)

    async def _take(self) -> tuple[Connection, float]:
        while self._idle:
            connection, made_at = self._idle.pop()
            if not connection.closed and time.monotonic() < made_at + _LONGEST:
                return connection, made_at
            await connection.close()
        self._refuse()
        self._trying = True
        try:
            connection = await connect(self._settings, first=self._address)
        except StoreUnavailable as error:
            self._away = error, time.monotonic() + _AWAY
            raise
        finally:
            self._trying = False
        self._address = connection.info.hostaddr
        if self._away is not None:
            self._away, self._broke_at = None, time.monotonic()
        return connection, time.monotonic()

    async def _put_back(self, connection: Connection, made_at: float) -> None:
        idle = connection.info.transaction_status is psycopg.pq.TransactionStatus.IDLE
        if idle and not self._closed:
            self._idle.append((connection, made_at))
        else:
            await connection.close()

    def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.pgconn.finish()


def _is_elsewhere(error: psycopg.Error) -> bool:
    """Whether the server is going, or writes go to another one by now."""
    return isinstance(
        error,
        psycopg.errors.ReadOnlySqlTransaction
        | psycopg.errors.AdminShutdown
        | psycopg.errors.CrashShutdown
        | psycopg.errors.CannotConnectNow,
    )


class _Cut:
    """Shuts the connection's socket when the time is over: waiting for it then ends with an error."""

    def __init__(self, connection: Connection, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self.done = False

    def __enter__(self) -> Self:
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._cut)
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _cut(self) -> None:
        self.done = True
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self._connection.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)
