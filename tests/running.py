"""The sidecar as a process of its own, and a development folder to start it in.

config = make_config(tmp_path / "vault", provider, clients.BASIC)
with SidecarProcess(config) as sidecar, connect(sidecar, "bot") as vault:
    vault.start_delegation("acme", conversation="c-1")
"""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict

from tests.authserver.clients import Registration
from tests.authserver.oidc import OidcProvider
from tokenvault import TokenVaultClient
from tokenvault_sidecar import devkit
from tokenvault_sidecar.devkit import Development

COMMAND = (sys.executable, "-P", "-m", "tokenvault_sidecar")
"""The `tokenvault` command."""

_READY = "ready: listening on "
_START_SECONDS = 30.0
_STOP_SECONDS = 30.0


def make_config(folder: Path, provider: OidcProvider, registration: Registration, **overrides: Any) -> Path:
    """Make `folder` a development folder for this registration at this server; the configuration's path.

    `overrides` are fields of `Development`. Listens on a free port of
    127.0.0.1 unless they say otherwise.
    """
    if registration.auth_method != "client_secret_basic":
        raise ValueError("a development folder is for clients with client_secret_basic")
    settings: dict[str, Any] = {
        "issuer": provider.issuer,
        "client_id": registration.client_id,
        "client_secret": registration.secret,
        "redirect_uris": registration.redirect_uris,
        "consumer_scopes": ("openid", "offline_access", "profile"),
        "conversation_scopes": ("openid", "profile"),
        "listen": ("127.0.0.1:0",),
        "ops_listen": "127.0.0.1:0",
        "callback_listen": "127.0.0.1:0",
    }
    return devkit.init(folder, Development(**(settings | overrides)))[-1]


class CannotStart(Exception):
    """The sidecar ended, or did not get ready; holds the end of its stderr."""


class SidecarProcess:
    """`tokenvault serve --config …` while the `with` block lasts.

    `stdout` and `stderr` are files in the folder `logs`, else the
    configuration's; a further process with the same configuration goes on
    writing where the last one stopped. One object is one process. `prefix` is
    what runs the command in its place, as in ("env", "-i").
    """

    def __init__(self, config: Path, *, logs: Path | None = None, prefix: Sequence[str] = ()) -> None:
        self.config = config
        self.prefix = prefix
        self.folder = config.parent
        self.stdout = (logs or self.folder) / "sidecar.stdout"
        self.stderr = (logs or self.folder) / "sidecar.stderr"
        self.addresses: tuple[str, ...] = ()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start the process and wait until it listens. Raises CannotStart."""
        with self.stdout.open("ab") as stdout, self.stderr.open("ab") as stderr:
            begin = stdout.tell(), stderr.tell()
            self._process = subprocess.Popen(
                [*self.prefix, *COMMAND, "serve", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C is for who started it
            )
        try:
            self.addresses = self._wait_until_ready(*begin)
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self, by: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal and wait for the end; the exit status. Raises TimeoutError, having killed it."""
        process = self._started
        process.send_signal(by)
        try:
            return process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"the sidecar did not end {_STOP_SECONDS:.0f} s after {by.name}") from None

    def wait(self) -> int:
        """Wait, without end, until it ends by itself; the exit status."""
        return self._started.wait()

    def kill(self) -> None:
        """SIGKILL; the process is gone when this returns."""
        self._started.kill()
        self._started.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.returncode is None:
            self.stop()

    @property
    def address(self) -> str:
        """The first address it listens on, with the port it got."""
        return self.addresses[0]

    @property
    def pid(self) -> int:
        return self._started.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, minus the signal's number where one ended it; None while it runs."""
        return self._started.poll()

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the sidecar was not started")
        return self._process

    def _wait_until_ready(self, said: int, complained: int) -> tuple[str, ...]:
        deadline = time.monotonic() + _START_SECONDS
        while (ended := self.returncode) is None and time.monotonic() < deadline:
            for line in _text(self.stdout, said).splitlines(keepends=True):
                if line.startswith(_READY) and line.endswith("\n"):
                    return tuple(line.removeprefix(_READY).strip().split(", "))
            time.sleep(0.01)
        what = (
            f"was not ready after {_START_SECONDS:.0f} s" if ended is None else f"ended with status {ended}"
        )
        raise CannotStart(f"the sidecar {what}:\n{_text(self.stderr, complained)[-2000:]}")


class CallerFiles(TypedDict):
    """What a client connects with."""

    ca: Path
    certificate: Path
    private_key: Path


def caller_files(folder: Path, caller: str) -> CallerFiles:
    """The files of a caller ("bot", "brand-service") in a development folder."""
    return {
        "ca": folder / "ca.pem",
        "certificate": folder / f"{caller}.pem",
        "private_key": folder / f"{caller}.key.pem",
    }


def connect(sidecar: SidecarProcess, caller: str) -> TokenVaultClient:
    """A client that shows this caller's certificate."""
    return TokenVaultClient(sidecar.address, **caller_files(sidecar.folder, caller))


def _text(path: Path, start: int) -> str:
    return path.read_bytes()[start:].decode(errors="replace")
