"""Where grants are kept: `[store]`, a SQLite file or a PostgreSQL database."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import unquote

from pydantic import Field, PlainValidator

from tokenvault_sidecar.config.files import File, OutputPath, SecretFilePath
from tokenvault_sidecar.config.problems import reject
from tokenvault_sidecar.config.tables import Table
from tokenvault_sidecar.config.values import is_loopback

_EXAMPLE: Final = "postgresql://tokenvault@db.example.org:5432/tokenvault"
_REMEDY: Final = f'write "{_EXAMPLE}"; of several hosts, "host1:5432,host2:5432"'
_NAME = r"[A-Za-z0-9._~%-]+"
_HOST = rf"(?:\[[0-9A-Fa-f:.]+\]|{_NAME})(?::[0-9]{{1,5}})?"
_URL = re.compile(rf"postgres(?:ql)?://({_NAME})@({_HOST}(?:,{_HOST})*)/({_NAME})")
# Once decoded, libpq takes a comma for the next host, and what begins with @ for a socket.
_A_HOST = re.compile(r"[A-Za-z0-9._-]+|(?=.*:.*:)[0-9A-Fa-f:.]+|/[^,]*")
_PORT: Final = 5432


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    """A PostgreSQL database: the hosts it may be on, the role, and its name there. Holds no secret."""

    text: str
    user: str
    hosts: tuple[str, ...]
    ports: tuple[int, ...]
    database: str

    def __str__(self) -> str:
        return self.text

    @property
    def is_here(self) -> bool:
        """Whether the way to it leads over no network."""
        return all(host.startswith("/") or is_loopback(f"tcp://{_bracketed(host)}") for host in self.hosts)


def parse_url(value: object) -> PostgresUrl:
    """The database a URL names. It is not repeated where it is none: it may hold a password."""
    if not isinstance(value, str):
        raise reject("must be a string", _REMEDY)
    authority = value.partition("://")[2].partition("/")[0]
    if ":" in authority.rpartition("@")[0]:
        raise reject("has a password in it", "put that into a file of its own, which password_file names")
    if "?" in value or "#" in value:
        raise reject("has settings after the database", "delete them: sslmode and others are keys of [store]")
    found = _URL.fullmatch(value)
    if not found:
        raise reject("is no URL of a PostgreSQL database with a role", _REMEDY)
    user, where, database = found.groups()
    hosts, ports = [], []
    for entry in where.split(","):
        host, _, port = entry.rpartition(":") if re.search(r":[0-9]+$", entry) else (entry, "", "")
        hosts.append(_decoded(host.strip("[]")))
        ports.append(int(port or _PORT))
    if not all(map(_A_HOST.fullmatch, hosts)):
        raise reject("has a host that is no name, address or folder", _REMEDY)
    if not all(0 < port < 65536 for port in ports):
        raise reject("has a port that is none", _REMEDY)
    return PostgresUrl(value, _decoded(user), tuple(hosts), tuple(ports), _decoded(database))


def _decoded(part: str) -> str:
    """Without its percent-encodings (RFC 3986 section 2.1), which are of UTF-8."""
    try:
        text = unquote(part, errors="strict")
    except UnicodeDecodeError:
        text = ""
    if not text.isprintable() or not text or re.search(r"%(?![0-9A-Fa-f]{2})", part):
        raise reject("has a percent-encoding of nothing that can be written", _REMEDY)
    return text


DatabaseUrl = Annotated[PostgresUrl, PlainValidator(parse_url)]


class StoreTable(Table):
    """Where grants are kept, sealed: in a file on one machine, or in a database for many."""

    path: OutputPath | None = Field(
        default=None,
        description="The SQLite file; made where it is missing. Either this or `url` is required.",
        examples=["/var/lib/tokenvault/vault.db"],
    )
    url: DatabaseUrl | None = Field(
        default=None,
        description="The PostgreSQL database that sidecars share, its tables made where they are missing: "
        "the role, one host or several of which one takes writes, and the database. "
        "A unix socket's folder is written as a host: `%2Frun%2Fpostgresql`.",
        examples=[_EXAMPLE],
    )
    password_file: SecretFilePath | None = Field(
        default=None,
        description="File with the role's password. Read anew for each connection.",
        examples=["database-password"],
    )
    sslmode: Literal["verify-full", "verify-ca", "disable"] = Field(
        default="verify-full",
        description="TLS to the database, in libpq's words. `disable` is for loopback and unix sockets only.",
        examples=["verify-full"],
    )
    sslrootcert: File | None = Field(
        default=None,
        description="PEM file of the authorities that vouch for the database's certificate; "
        "without it, the system's. Read anew for each connection.",
        examples=["database-ca.pem"],
    )
    connections: int = Field(
        default=8,
        description="The most connections to the database at once.",
        examples=[8],
        ge=2,
        le=1000,
        strict=True,
    )

    @property
    def where(self) -> str:
        """The file or the database, for people. Holds no secret."""
        return str(self.url or self.path)

    @property
    def file(self) -> Path:
        """The SQLite file, where it is one."""
        assert self.path is not None
        return self.path

    def problems(self) -> Iterator[tuple[tuple[str, ...], str, str]]:
        """What does not fit together: keys, what is wrong, remedies."""
        if self.url is None:
            yield from self._file_problems()
        else:
            yield from self._database_problems(self.url)

    def _file_problems(self) -> Iterator[tuple[tuple[str, ...], str, str]]:
        if self.path is None:
            yield ("path",), "is missing", 'add it, as in path = "/var/lib/tokenvault/vault.db", or url'
        elif not self.path.parent.is_dir():
            yield ("path",), "is in a folder that does not exist", "create the folder or correct the path"
        elif self.path.is_dir():
            yield ("path",), "is a folder", "name a file in it"
        for key in sorted(self.model_fields_set - {"path", "url"}):
            yield (key,), "is not used", "delete it: it is for a database, which url names"

    def _database_problems(self, url: PostgresUrl) -> Iterator[tuple[tuple[str, ...], str, str]]:
        if self.path is not None:
            yield ("url",), "is there beside store.path", "delete one of them"
        if self.sslmode == "disable":
            if not url.is_here:
                yield ("sslmode",), "is not safe in transit", 'write sslmode = "verify-full"'
            if self.sslrootcert is not None:
                yield ("sslrootcert",), "is not used", "delete it, or sslmode"
        elif self.sslmode == "verify-ca" and self.sslrootcert is None:
            yield ("sslrootcert",), "is missing", "name your own authorities: any host has the system's"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
