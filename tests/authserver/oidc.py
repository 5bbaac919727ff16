"""The real authorization server (npm oidc-provider), run as a process of its own on loopback."""

import asyncio
import hashlib
import json
import os
import select
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from tests.authserver import clients
from tests.authserver.clients import Registration
from tests.authserver.node import HERE, ensure_installed

VAULT_AUDIENCE = "https://vault.example"
READ_SCOPE = "delegated.token.read.external"

_START_SECONDS = 60.0
_ANSWER_SECONDS = 30.0


def sha256(token: str) -> str:
    """A token as the server's log names it."""
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One answer of the server. Tokens and codes are SHA-256 in hex, `time` seconds since the epoch.

    `by`: the request URL's parameter of that name, by which senders of one registration can tell themselves
    apart. `presented`: the code, refresh token or token of the request.
    `access_token`, `refresh_token`: what was issued. `family`: the server's
    grant, shared by all token sets of one login. "grant_revoked" says that a
    whole family was ended, by revocation or by a replay.
    """

    event: Literal["token", "revocation", "introspection", "userinfo", "grant_revoked"]
    time: float
    status: int
    error: str | None = None
    client_id: str | None = None
    grant_type: str | None = None
    family: str | None = None
    by: str | None = None
    presented: str | None = None
    access_token: str | None = None
    refresh_token: str | None = None


class OidcProvider:
    """An authorization server while the `with` (or `async with`) block lasts. All it knows is in memory.

    Times to live are whole seconds. `scopes` come besides openid,
    offline_access, profile and email; offline_access needs `prompt=consent`.
    `rotate`: every refresh brings a new refresh token, and showing an old one
    again ends the family. `issuer` is its public name where that is not its
    own address, behind a FaultProxy say. `tls`: certificate and key file, for https. `resources`: audience →
    scopes of the JWT access tokens (RFC 9068) that `resource=` asks for.
    `features` is oidc-provider's own setting, added to ours: pushed
    authorization requests and DPoP are off unless it says otherwise.
    """

    def __init__(
        self,
        *,
        registrations: Sequence[Registration] = clients.ALL,
        access_token_ttl: int = 600,
        id_token_ttl: int = 600,
        refresh_token_ttl: int = 86_400,
        rotate: bool = True,
        scopes: Sequence[str] = ("api:read", "api:write"),
        resources: Mapping[str, Sequence[str]] | None = None,
        features: Mapping[str, object] | None = None,
        issuer: str | None = None,
        port: int = 0,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        self._settings = {
            "clients": [registration.as_metadata() for registration in registrations],
            "access_token_ttl": access_token_ttl,
            "id_token_ttl": id_token_ttl,
            "refresh_token_ttl": refresh_token_ttl,
            "rotate": rotate,
            "scopes": list(scopes),
            "resources": resources if resources is not None else {VAULT_AUDIENCE: [READ_SCOPE]},
            "features": features or {},
            "issuer": issuer,
            "port": port,
            "tls": tls and {"cert": str(tls[0].resolve()), "key": str(tls[1].resolve())},
        }
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""
        self.issuer = issuer or ""
        self.port = port

    # Life

    def start(self) -> Self:
        """Start the process and wait until it listens. Raises RuntimeError, with what it said."""
        node = ensure_installed()
        self._folder = tempfile.TemporaryDirectory(prefix="authserver-")
        self._log = Path(self._folder.name, "log.jsonl")
        self._log.touch(mode=0o600)
        with self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                [node.executable, str(HERE / "server.mjs")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=HERE,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for who started it, and who may need it to stop cleanly
                env={k: v for k, v in os.environ.items() if k not in ("DEBUG", "NODE_OPTIONS")},
            )
        try:
            ready = self._ask(self._settings | {"log": str(self._log)}, _START_SECONDS)
        except BaseException:
            self.stop()
            raise
        self.issuer = str(ready["issuer"])
        self.port = int(str(ready["port"]))
        return self

    def stop(self) -> None:
        """End the process; its log is gone with it."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    # Endpoints, below the issuer

    @property
    def authorization_endpoint(self) -> str:
        return f"{self.issuer}/auth"

    @property
    def token_endpoint(self) -> str:
        return f"{self.issuer}/token"

    @property
    def revocation_endpoint(self) -> str:
        return f"{self.issuer}/token/revocation"

    @property
    def introspection_endpoint(self) -> str:
        return f"{self.issuer}/token/introspection"

    @property
    def userinfo_endpoint(self) -> str:
        """The "brand API": 200 for a live access token with scope openid, 401 for a dead one."""
        return f"{self.issuer}/me"

    @property
    def jwks_uri(self) -> str:
        return f"{self.issuer}/jwks"

    # What it did

    def log(self) -> list[LogEntry]:
        """Everything so far, in order. An answer that a client has is in it."""
        return self.log_from(0)[0]

    def log_from(self, position: int) -> tuple[list[LogEntry], int]:
        """The same from a position on, 0 or one that was returned before; and the position now."""
        with self._log.open("rb") as file:
            file.seek(position)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        return [LogEntry(**json.loads(line)) for line in whole.splitlines()], position + len(whole)

    def token_requests(
        self, *, grant_type: str | None = None, client_id: str | None = None, family: str | None = None
    ) -> list[LogEntry]:
        """The answers of the token endpoint that match all that is given."""
        return [
            entry
            for entry in self.log()
            if entry.event == "token"
            and grant_type in (None, entry.grant_type)
            and client_id in (None, entry.client_id)
            and family in (None, entry.family)
        ]

    # What it shall do

    def fault_token_endpoint(
        self,
        *,
        status: int | None = None,
        error: str = "temporarily_unavailable",
        retry_after: int | None = None,
        delay: float = 0.0,
        times: int | None = None,
    ) -> None:
        """Make the token endpoint answer `delay` seconds late, and with `status` instead of acting.

        For the next `times` requests; None: until `heal_token_endpoint`.
        """
        fault = {"status": status, "error": error, "retry_after": retry_after, "delay": delay, "times": times}
        self._command("fault", fault=fault)

    def heal_token_endpoint(self) -> None:
        """No faults any more."""
        self._command("fault", fault=None)

    def rotate_keys(self, *, forget: bool = False) -> None:
        """Sign with new keys from now on; `forget`: no longer publish the old ones. Tokens stay."""
        self._command("rotate_keys", forget=forget)

    def _command(self, command: str, **options: object) -> None:
        self._ask({"command": command, **options}, _ANSWER_SECONDS)

    def _ask(self, message: Mapping[str, object], seconds: float) -> Mapping[str, object]:
        process = self._process
        assert process is not None, "not started"
        assert process.stdin is not None
        with self._lock:
            try:
                process.stdin.write(json.dumps(message).encode() + b"\n")
            except BrokenPipeError:
                raise self._ended() from None
            answer: Mapping[str, object] = json.loads(self._read_line(process, time.monotonic() + seconds))
            return answer

    def _read_line(self, process: subprocess.Popen[bytes], deadline: float) -> bytes:
        assert process.stdout is not None
        readable = select.poll()  # not select(): that knows no file descriptor above 1023
        readable.register(process.stdout, select.POLLIN)
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not readable.poll(left * 1000):
                raise TimeoutError("the authorization server does not answer on its stdout")
            chunk = os.read(process.stdout.fileno(), 65_536)
            if not chunk:
                raise self._ended()
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    @property
    def _stderr(self) -> Path:
        return Path(self._folder.name, "stderr")

    def _ended(self) -> RuntimeError:
        return RuntimeError(f"the authorization server ended:\n{self._stderr.read_text()[-2000:]}")
