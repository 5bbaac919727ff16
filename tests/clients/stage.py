"""What clients meet: an authorization server, a sidecar that can be stopped, an API, and files per caller."""

import json
import os
import shutil
import signal
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from tests.authserver.clients import BASIC
from tests.authserver.consumer import Consumer
from tests.authserver.oidc import OidcProvider
from tests.authserver.plain_client import PlainClient
from tests.clients.wire import Wire
from tests.ops.ports import free_port
from tests.running import SidecarProcess, caller_files, make_config
from tokenvault_sidecar.config import to_toml
from tokenvault_sidecar.devkit import DevelopmentCA

BRAND = "acme"
GUARDED = "guarded"
"""Brands at one authorization server; the second asks for confirmation codes."""

ACCESS_TOKEN_TTL = 8


_NO_PROXY = "http://127.0.0.1:1"  # nothing there: who goes by the environment's proxy does not arrive


class NotAsExpected(Exception):
    """Something else happened than the scenario says; says what. Holds no secret."""


class RejectingApi(ThreadingHTTPServer):
    """An API that answers 401 to the tokens it is told to, and 200 to all others."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _RejectingHandler)
        self.rejected: set[str | None] = {None}
        self.url = f"http://127.0.0.1:{self.server_port}/orders"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()


class _RejectingHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, RejectingApi)
        self.send_response(401 if self.headers["Authorization"] in self.server.rejected else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *said: object) -> None:
        pass


class Stage:
    """Both processes and an API; `acts` are what the scenario can have done to them, by name."""

    def __init__(self, provider: OidcProvider, api: RejectingApi, wire: Wire, config: Path) -> None:
        self.provider = provider
        self.api = api
        self._wire = wire
        self._config = config
        self._audit = config.parent / "audit.jsonl"
        self._wrong_ca = config.parent / "wrong-ca.pem"
        self._wrong_ca.write_bytes(DevelopmentCA.create("another CA").certificate_pem)
        self._sidecar = SidecarProcess(config)
        self._change(certificate="bot", private_key="bot")
        self.acts: Mapping[str, Callable[..., Any]] = {
            "log_in": self._log_in,
            "decline": self._decline,
            "another": _another,
            "call_api": self._call_api,
            "outlive": self._outlive,
            "reject": lambda what: api.rejected.add(f"Bearer {what['access_token']}"),
            "count": self._count,
            "counted": self._counted,
            "stop": self.stop,
            "start": self.start,
            "cut": wire.cut,
            "change": self._change,
            "freeze": lambda: os.kill(self._sidecar.pid, signal.SIGSTOP),
            "thaw": lambda: os.kill(self._sidecar.pid, signal.SIGCONT),
        }

    def environment(self, caller: str) -> dict[str, str]:
        """How a caller reaches the sidecar: "bot", "brand-service", or one that is the bot in its own way.

        "bot-unix" goes by the socket, "bot-wire" by what can be cut, "changing" has files that "change"
        changes, and "wrong-ca" trusts another CA.
        """
        name = "bot" if caller in ("bot-unix", "bot-wire", "wrong-ca") else caller
        tcp, unix = self._sidecar.addresses
        files = caller_files(self._config.parent, name)
        ways = {"bot-unix": unix, "bot-wire": f"127.0.0.1:{self._wire.port}"}
        return {
            "TOKENVAULT_ADDRESS": ways.get(caller, tcp),
            "TOKENVAULT_CA": str(self._wrong_ca if caller == "wrong-ca" else files["ca"]),
            "TOKENVAULT_CERT": str(files["certificate"]),
            "TOKENVAULT_KEY": str(files["private_key"]),
            "https_proxy": _NO_PROXY,
            "grpc_proxy": _NO_PROXY,
        }

    def start(self) -> None:
        self._sidecar = SidecarProcess(self._config).start()

    def stop(self) -> None:
        os.kill(self._sidecar.pid, signal.SIGCONT)  # where a step failed while it was frozen
        self._sidecar.stop()

    @property
    def runs(self) -> bool:
        return self._sidecar.returncode is None

    async def _log_in(self, by: Mapping[str, Any]) -> dict[str, str]:
        return await Consumer().authorize(by["authorization_url"])

    async def _decline(self, by: Mapping[str, Any]) -> dict[str, str]:
        return await Consumer().authorize(by["authorization_url"], decline="consent")

    def _change(self, *, certificate: str | None = None, private_key: str | None = None) -> None:
        """Gives "changing" the certificate, or the key, of another caller; they may not fit each other."""
        own, new = caller_files(self._config.parent, "changing"), self._config.parent / "new"
        if certificate:
            shutil.copy(caller_files(self._config.parent, certificate)["certificate"], new)
            new.replace(own["certificate"])
        if private_key:
            shutil.copy(caller_files(self._config.parent, private_key)["private_key"], new)
            new.replace(own["private_key"])
        time.sleep(1.1)  # until clients look again

    async def _call_api(self, status: int, **options: Mapping[str, Any]) -> None:
        answer = await PlainClient(self.provider, BASIC).userinfo(options["with"]["access_token"])
        if answer.status_code != status:
            raise NotAsExpected(f"the brand's API answered {answer.status_code} to the token, not {status}")

    def _outlive(self, what: Mapping[str, Any]) -> None:
        time.sleep(max(0.0, what["expire_time"] - time.time()) + 0.05)

    def _count(self, rpc: str) -> int:
        lines = self._audit.read_text().splitlines()
        return sum(json.loads(line).get("rpc") == rpc for line in lines)

    def _counted(self, rpc: str, since: int, calls: int) -> None:
        if (found := self._count(rpc) - since) != calls:
            raise NotAsExpected(f"{found} calls of {rpc} reached the sidecar, not {calls}")


def _another(than: Mapping[str, Any]) -> dict[str, str]:
    """A confirmation code that is not the one shown."""
    return {"code": f"{(int(than['confirmation_code']) + 1) % 10**8:08}"}


def _guarded(config: Path) -> str:
    """The brand once more, with consumers who confirm."""
    table = tomllib.loads(config.read_text())["brands"][BRAND]
    keys = ("issuer", "client_id", "client_secret_file", "redirect_uris", "conversation")
    kept = {key: table[key] for key in keys}
    lines = [f"{key} = {to_toml(value)}" for key, value in (kept | {"confirmation_code": True}).items()]
    return "\n".join(["", f"[brands.{GUARDED}]", *lines, ""])


@contextmanager
def stage(folder: Path, *, access_token_ttl: int = ACCESS_TOKEN_TTL) -> Iterator[Stage]:
    """Both on ports of their own, the sidecar also on a unix socket in the folder."""
    registered = OidcProvider(registrations=[BASIC], access_token_ttl=access_token_ttl)
    port = free_port()
    with registered as provider, RejectingApi() as api, Wire(port) as wire:
        listen = (f"127.0.0.1:{port}", f"unix:{folder}/s")
        config = make_config(folder / "vault", provider, BASIC, brand=BRAND, listen=listen)
        with config.open("a") as file:
            file.write('\n[audit]\npath = "audit.jsonl"\n')
            file.write(_guarded(config))
        stage = Stage(provider, api, wire, config)
        stage.start()
        try:
            yield stage
        finally:
            if stage.runs:
                stage.stop()
