"""A sidecar of two workers for these tests: its processes, and callers on connections of their own."""

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from tests.access.steering import said, says
from tests.authserver.scripted import ScriptedServer
from tests.e2e.scripted import scripted_brand
from tests.e2e.vaults import BOT, PATIENCE, eventually, make_vault
from tests.renewal.seeding import seeding
from tests.running import SidecarProcess, caller_files
from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault.v1.token_vault_pb2_grpc import TokenVaultStub

PEOPLE = [f"c-{number}" for number in range(20)]
CONNECTIONS = 32
"""So many that all are one worker's once in four thousand million times."""


def make_team(folder: Path, authorization: ScriptedServer, **tables: Mapping[str, Any]) -> Path:
    """A configuration with two workers, unless `tables` say otherwise, as in make_vault."""
    tables["server"] = {"workers": 2, **tables.get("server", {})}
    return make_vault(folder, {"acme": scripted_brand(authorization, "acme")}, **tables)


async def seed(config: Path) -> None:
    """A fresh grant for each of PEOPLE."""
    async with seeding(config) as seeder:
        await seeder.add(
            {
                name: {
                    "access_token": f"at-{name}",
                    "token_type": "Bearer",
                    "refresh_token": f"{name}.first.",
                    "scope": "openid offline_access",
                }
                for name in PEOPLE
            }
        )


def pids(sidecar: SidecarProcess) -> dict[int, int]:
    """The newest process of each worker, by its number."""
    return {line["worker"]: line["pid"] for line in said(sidecar, "worker_started")}


async def gone(pid: int) -> bool:
    """Whether there is no such process any more."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return (Path("/proc") / str(pid) / "stat").read_text().rpartition(") ")[2].startswith("Z")


async def ended(sidecar: SidecarProcess) -> None:
    """Wait until no worker that it ever had is there."""

    async def none() -> bool:
        return all([await gone(line["pid"]) for line in said(sidecar, "worker_started")])

    await eventually(none)


async def killed(sidecar: SidecarProcess, worker: int) -> None:
    """SIGKILL to this worker; the supervisor has seen it."""
    before = len(said(sidecar, "worker_ended"))
    os.kill(pids(sidecar)[worker], signal.SIGKILL)
    await says(sidecar, "worker_ended", before + 1)


@asynccontextmanager
async def stub(sidecar: SidecarProcess, caller: str = BOT) -> AsyncIterator[Any]:
    """On a connection of its own, which repeats nothing by itself."""
    files = caller_files(sidecar.folder, caller)
    ca, key, chain = (files[name].read_bytes() for name in ("ca", "private_key", "certificate"))
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    credentials = grpc.ssl_channel_credentials(ca, key, chain)
    async with grpc.aio.secure_channel(sidecar.address, credentials, options) as channel:
        yield TokenVaultStub(channel)  # the stubs know the synchronous one only


def get_token(consumer: str, **more: Any) -> pb.GetTokenRequest:
    request = pb.GetTokenRequest(brand_id="acme", **more)
    request.context.consumer.consumer_id = consumer
    return request


@dataclass
class Load:
    """Callers that ask over and over, each on a connection of its own, and what became of their calls."""

    sidecar: SidecarProcess
    outcomes: Counter[grpc.StatusCode] = field(default_factory=Counter)
    _callers: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> "Load":
        self._callers = [asyncio.create_task(self._ask()) for _ in range(CONNECTIONS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for caller in self._callers:
            caller.cancel()
        for caller in self._callers:
            with suppress(asyncio.CancelledError):
                await caller

    async def more(self, calls: int = 500) -> None:
        """Wait until so many more have been answered."""
        wanted = self.outcomes[grpc.StatusCode.OK] + calls

        async def there() -> bool:
            return self.outcomes[grpc.StatusCode.OK] >= wanted

        await eventually(there)

    async def _ask(self) -> None:
        async with stub(self.sidecar) as vault:
            while True:
                try:
                    await vault.GetToken(get_token(random.choice(PEOPLE)), timeout=PATIENCE)
                except grpc.aio.AioRpcError as error:
                    self.outcomes[error.code()] += 1
                    await asyncio.sleep(0.01)
                else:
                    self.outcomes[grpc.StatusCode.OK] += 1
