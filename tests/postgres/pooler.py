"""PgBouncer before a test's PostgreSQL: it shares out a few connections, by transaction."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.ops.ports import free_port
from tests.postgres.server import PASSWORD, PostgresServer
from tokenvault_sidecar.adapters.postgres_connecting import PostgresSettings

CONNECTIONS = 3
"""To the server, for each database: fewer than two stores' own."""

_START_SECONDS = 60.0
_SETTINGS = {
    "listen_addr": "127.0.0.1",
    "unix_socket_dir": "",
    "auth_type": "scram-sha-256",
    "pool_mode": "transaction",
    "default_pool_size": str(CONNECTIONS),
    # Whoever counts on a session is found out: each transaction gets another.
    "server_round_robin": "1",
}


def pooler_program() -> str:
    """PgBouncer; where it is not installed the test does not run, and says so."""
    found = shutil.which("pgbouncer", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    if found is None:
        pytest.skip("DID NOT RUN: PgBouncer is not installed (Debian's package pgbouncer)")
    return found


class Pooler:
    """Runs while the `with` block lasts, as the server's user: for root it does not."""

    def __init__(self, server: PostgresServer, *, settings: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self._server = server
        self._settings = _SETTINGS | dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._program = pooler_program()
        self._folder = Path(tempfile.mkdtemp(prefix="tv-pool-"))
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(_START_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)

    def settings(self, database: str, **changes: Any) -> PostgresSettings:
        """How a store comes to this database through it."""
        return replace(self._server.settings(database), ports=(self.port,), **changes)

    def url(self, database: str) -> str:
        return f"postgresql://tokenvault@127.0.0.1:{self.port}/{database}"

    def _start(self) -> None:
        users = self._file("users", f'"tokenvault" "{PASSWORD}"\n')
        options = self._settings | {"listen_port": str(self.port), "auth_file": str(users)}
        lines = [
            "[databases]",
            f"* = host={self._server.address} port={self._server.port}",
            "[pgbouncer]",
            *(f"{name} = {value}" for name, value in options.items()),
        ]
        file = self._file("pgbouncer.ini", "\n".join([*lines, ""]))
        self._folder.chmod(0o755)  # the user's, too
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*self._server.as_user, self._program, "--quiet", file],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    said = (self._folder / "log").read_text(errors="replace")
                    raise RuntimeError(f"PgBouncer did not start:\n{said[-2000:]}") from None
                time.sleep(0.02)
            else:
                return

    def _file(self, name: str, text: str) -> Path:
        path = self._folder / name
        path.write_text(text)
        return path
