"""Connections to a PostgreSQL database: few, shared, and given up on at once where it is away.

Not psycopg_pool: while a database is away that keeps callers waiting for its
time-out, comes back by ever longer pauses, and tells the reason to a log only.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import psycopg
from psycopg import AsyncConnection

from tokenvault_sidecar.adapters.postgres_schema import Connection
from tokenvault_sidecar.core.errors import StoreUnavailable

# What matters is raised; its log would hold inner texts.
logging.getLogger("psycopg").propagate = False
logging.getLogger("psycopg").addHandler(logging.NullHandler())

ANSWER: Final = 5.0
"""Seconds a statement, or a transaction of a few, may take here: then its connection is cut."""

_SESSION = "SET statement_timeout = '3s'; SET idle_in_transaction_session_timeout = '5s'"
"""What the server ends earlier by itself, having done nothing: its word is better than a cut."""

_CONNECT = 5
"""Seconds to connect to one host."""

_IDLE = 60
"""Seconds without a packet until one is sent to see whether the server is there."""

_CONNECT_ALL = 10.0
"""Seconds to connect to any of them, names looked up."""

_QUEUE = 5.0
"""Seconds to wait for a connection that others use."""

_AWAY = 0.5
"""Seconds after a failure to connect until it is tried again: by one caller, while the others are told."""

_LONGEST = 900.0
"""Seconds after which a connection is replaced: passwords and servers change."""

_GRACE = 5.0
"""Seconds; an answer that could not be stored is tried again every two."""

_RETRY_AFTER = 1.0


@dataclass(frozen=True, slots=True)
class PostgresSettings:
    """A database and how to come there. `password_file` is read anew for each connection."""

    hosts: tuple[str, ...]
    ports: tuple[int, ...]
    user: str
    database: str
    password_file: Path | None
    sslmode: str
    sslrootcert: str | None
    connections: int


class InDoubt(StoreUnavailable):
    """What was last sent may have happened, or may yet."""


class ConnectionBroke(Exception):
    """While it was used. Whether what was last sent has happened is not known."""


class Connections:
    """Up to `settings.connections`, made when they are needed."""

    def __init__(self, settings: PostgresSettings, *, is_new: bool = False) -> None:
        """`is_new`: this process has just begun, and cannot know of an outage before."""
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.connections)
        self._idle: list[tuple[Connection, float]] = []
        self._away: tuple[StoreUnavailable, float] | None = None
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
                            retry_after=_RETRY_AFTER,
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
                retry_after=_RETRY_AFTER,
            ) from None
        finally:
            self.waiting -= 1

    def _refuse(self) -> None:
        """Raises what the last connecting did, while it is too early for another try."""
        if self._closed:  # no connection is idle then
            raise StoreUnavailable("the store is closed: the sidecar is stopping", retry_after=_RETRY_AFTER)
        if self._away is not None and (self._trying or time.monotonic() < self._away[1]):
            raise StoreUnavailable(self._away[0].message, retry_after=_RETRY_AFTER)

    async def _take(self) -> tuple[Connection, float]:
        while self._idle:
            connection, made_at = self._idle.pop()
            if not connection.closed and time.monotonic() < made_at + _LONGEST:
                return connection, made_at
            await connection.close()
        self._refuse()
        self._trying = True
        try:
            connection = await connect(self._settings)
        except StoreUnavailable as error:
            self._away = error, time.monotonic() + _AWAY
            raise
        finally:
            self._trying = False
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


def parameters(settings: PostgresSettings) -> dict[str, Any]:
    """What libpq is to connect with. Raises StoreUnavailable where the password cannot be read."""
    try:
        password = settings.password_file.read_text().rstrip("\r\n") if settings.password_file else None
    except (OSError, UnicodeDecodeError):
        raise StoreUnavailable(
            "the database's password cannot be read: look at store.password_file", retry_after=_RETRY_AFTER
        ) from None
    given: dict[str, Any] = {
        "host": ",".join(settings.hosts),
        "port": ",".join(map(str, settings.ports)),
        "user": settings.user,
        "dbname": settings.database,
        "password": password,
        "sslmode": settings.sslmode,
        "sslrootcert": settings.sslrootcert,
        "gssencmode": "disable",
        "connect_timeout": _CONNECT,
        # No firewall on the way forgets a connection that waits; and what is lost on the way
        # is not sent once more when its answer is waited for no longer.
        "keepalives_idle": _IDLE,
        "keepalives_interval": _CONNECT,
        "keepalives_count": 2,
        "tcp_user_timeout": int(ANSWER * 1000),
        "application_name": "tokenvault",
        # Of several hosts the one that takes writes; and never a standby.
        "target_session_attrs": "read-write",
    }
    return {name: value for name, value in given.items() if value is not None}


async def connect(settings: PostgresSettings) -> Connection:
    """A new connection, on which each statement is a transaction of its own. Raises StoreUnavailable."""
    given = parameters(settings)
    try:
        async with asyncio.timeout(_CONNECT_ALL):
            # Nothing is prepared: a pooler may give each statement another session.
            connection = await AsyncConnection.connect(autocommit=True, prepare_threshold=None, **given)
            try:
                await connection.execute(_SESSION)
            except BaseException:
                connection.pgconn.finish()
                raise
            return connection
    except psycopg.Error as error:
        raise StoreUnavailable(_why(error), retry_after=_RETRY_AFTER) from None
    except TimeoutError:
        raise StoreUnavailable(_AWAY_TEXT, retry_after=_RETRY_AFTER) from None


def unavailable(error: psycopg.Error) -> StoreUnavailable:
    """Our error for one of the database's. It holds nothing of the inner text."""
    code = error.sqlstate or "no SQLSTATE"
    cause = next(
        (cause for begin, cause in _CAUSES if code.startswith(begin)),
        "it refuses a statement: look at its log, and restart the sidecar",
    )
    return StoreUnavailable(f"the database cannot be used, {cause} ({code})", retry_after=_RETRY_AFTER)


_CAUSES = (
    ("40", "others change the same all the time: ask again"),
    ("53100", "its disk is full: free space"),
    ("53", "it is out of resources: look at its memory and connections"),
    ("57014", "a statement takes too long: look at its load and for locks"),
    ("57", "it is stopping or starting"),
    ("55P03", "a lock is held too long: look for a migration or a database tool at work"),
    ("25006", "it takes no writes: look for the server that does"),
    ("42501", "its role may not do that: grant it its tables"),
    ("42P01", "its tables are gone: restore a dump"),
    ("XX", "it is damaged: look at its log"),
)
_AWAY_TEXT = "the database cannot be reached: check that it runs, and store.url"
# libpq has no codes for these, but words; of a server that speaks another language they are not understood.
_WORDS = (
    ("authentication failed", "refuses the password: check store.password_file"),
    ("no password supplied", "wants a password: set store.password_file"),
    ("pg_hba.conf", "lets this role in from nowhere like here: check its pg_hba.conf"),
    ("does not match host name", "shows a certificate that is not for the host that store.url names"),
    ("certificate", "shows no certificate that store.sslrootcert vouches for"),
    ("SSL", "speaks no TLS as store.sslmode asks for"),
    ("too many", "takes no more connections: give it more, or a pooler"),
    ("connection slots", "takes no more connections: give it more, or a pooler"),
    ("starting up", "is starting or stopping"),
    ("shutting down", "is starting or stopping"),
    ("read-only", "takes no writes: look for the server that does"),
    ("recovery", "takes no writes: look for the server that does"),
    ("does not exist", "knows no such role or database: check store.url"),
    ("permission denied", "lets this role not in: grant it CONNECT"),
)


def _why(error: psycopg.Error) -> str:
    text = str(error)
    return next((f"the database {why}" for words, why in _WORDS if words in text), _AWAY_TEXT)


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
