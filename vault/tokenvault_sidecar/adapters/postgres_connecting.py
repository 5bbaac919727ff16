"""How a sidecar comes to its PostgreSQL database: which host and address, and what it must be like."""

import asyncio
import logging
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection

from tokenvault_sidecar.adapters.postgres_schema import Connection
from tokenvault_sidecar.core.errors import StoreUnavailable

# What matters is raised; its log would hold inner texts.
logging.getLogger("psycopg").propagate = False
logging.getLogger("psycopg").addHandler(logging.NullHandler())

ANSWER: Final = 5.0
"""Seconds a statement, or a transaction of a few, may take here: then its connection is cut."""

RETRY_AFTER: Final = 1.0

# What the server ends earlier by itself, having done nothing: its word is better than a cut.
_SESSION = """
    SET statement_timeout = '3s'; SET idle_in_transaction_session_timeout = '5s'; SHOW synchronous_commit
"""

_LOSE = ("off", "local")
"""Commits after which a crash, or a fail-over to a synchronous standby, loses what was acknowledged."""

_CONNECT = 5
"""Seconds to look names up; and to connect to one address."""

_IDLE = 60
"""Seconds without a packet until one is sent to see whether the server is there."""


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


def parameters(settings: PostgresSettings) -> dict[str, Any]:
    """What libpq is to connect with. Raises StoreUnavailable where the password cannot be read."""
    try:
        password = settings.password_file.read_text().rstrip("\r\n") if settings.password_file else None
    except (OSError, UnicodeDecodeError):
        raise StoreUnavailable(
            "the database's password cannot be read: look at store.password_file", retry_after=RETRY_AFTER
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


async def connect(settings: PostgresSettings, *, first: str | None = None) -> Connection:
    """A new connection, on which each statement is a transaction of its own.

    The address `first` is tried before the others. Raises StoreUnavailable;
    also where the database may lose what it has acknowledged.
    """
    given = parameters(settings)
    try:
        async with asyncio.timeout(_CONNECT):
            ways = await _ways(settings)
        ways.sort(key=lambda way: way[2] != first)
        hosts, ports, addresses = zip(*ways, strict=True)
        given |= {"host": ",".join(hosts), "port": ",".join(ports), "hostaddr": ",".join(addresses)}
        async with asyncio.timeout(_CONNECT * len(ways) + ANSWER):
            # Nothing is prepared: a pooler may give each statement another session.
            connection = await AsyncConnection.connect(autocommit=True, prepare_threshold=None, **given)
            try:
                await _prepare(connection)
            except BaseException:
                connection.pgconn.finish()
                raise
            return connection
    except psycopg.Error as error:
        raise StoreUnavailable(_why(error), retry_after=RETRY_AFTER) from None
    except (TimeoutError, OSError):
        raise StoreUnavailable(_AWAY_TEXT, retry_after=RETRY_AFTER) from None


async def _ways(settings: PostgresSettings) -> list[tuple[str, str, str]]:
    """Each host, port and address of it. Raises OSError where no name is known."""
    ways, unknown = [], OSError()
    for host, port in zip(settings.hosts, settings.ports, strict=True):
        if host.startswith("/"):  # a socket's folder
            ways.append((host, str(port), ""))
            continue
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
            )
        except OSError as error:
            unknown = error
        except UnicodeError:  # an empty label, or one that is too long
            continue
        else:
            ways += [(host, str(port), str(address[0])) for *_, address in found]
    if not ways:
        raise unknown
    return ways


async def _prepare(connection: Connection) -> None:
    """On each connection anew: a setting of the role may change, and a fail-over lead to another server."""
    cursor = await connection.execute(_SESSION)
    while cursor.nextset():
        pass
    ((commits,),) = await cursor.fetchall()
    if commits in _LOSE:
        raise StoreUnavailable(
            f"the database has synchronous_commit = {commits}, and would lose tokens: switch it on",
            retry_after=RETRY_AFTER,
        )


def unavailable(error: psycopg.Error) -> StoreUnavailable:
    """Our error for one of the database's. It holds nothing of the inner text."""
    code = error.sqlstate or "no SQLSTATE"
    cause = next(
        (cause for begin, cause in _CAUSES if code.startswith(begin)),
        "it refuses a statement: look at its log, and restart the sidecar",
    )
    return StoreUnavailable(f"the database cannot be used, {cause} ({code})", retry_after=RETRY_AFTER)


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
