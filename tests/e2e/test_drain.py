"""Told to stop under load: calls under way are answered, none fails but with UNAVAILABLE, nothing is lost."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.authserver.scripted import Reply, ScriptedServer, Seen
from tests.e2e.scripted import issuing, refresh_token_for, scripted_brand, token_path
from tests.e2e.vaults import BOT, PATIENCE, connect, eventually, make_vault, running
from tests.renewal.seeding import LIFE, seeding
from tests.running import SidecarProcess, caller_files
from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault.v1.token_vault_pb2_grpc import TokenVaultStub
from tokenvault_sidecar.core.ports import TokenAnswer

PEOPLE = [f"c-{number}" for number in range(60)]
CONNECTIONS, CALLERS = 4, 20
TOKEN = token_path("acme")


@dataclass
class Families:
    """Rotating refresh tokens, as a strict server keeps them: what is replayed ends the grant."""

    server: ScriptedServer
    slowest: float = 0.2
    held: asyncio.Event | None = None
    current: dict[str, str] = field(default_factory=dict)
    replays: list[str] = field(default_factory=list)

    def first(self, account: str) -> TokenAnswer:
        self.current[account] = f"{account}.first."
        return {
            "access_token": f"at-{account}",
            "token_type": "Bearer",
            "refresh_token": self.current[account],
            "scope": "openid offline_access",
        }

    def answer(self, seen: Seen) -> Reply:
        presented = seen.form["refresh_token"]
        account = presented.partition(".")[0]
        if presented != self.current[account]:
            self.replays.append(account)
            return Reply(status=400, json={"error": "invalid_grant"})
        self.current[account] = refresh_token_for(presented)
        return replace(
            issuing(self.server, {"id_token": None})(seen), delay=self.held or random.uniform(0, self.slowest)
        )


@dataclass
class Load:
    """Callers that ask over and over until nothing answers any more, and what became of their calls."""

    sidecar: SidecarProcess
    outcomes: Counter[grpc.StatusCode] = field(default_factory=Counter)
    details: set[str] = field(default_factory=set)

    async def ask(self, stub: Any) -> None:  # the stubs know the synchronous one only
        version = ""
        while True:
            request = pb.GetTokenRequest(brand_id="acme", rejected_token_version=version)
            request.context.consumer.consumer_id = random.choice(PEOPLE)
            try:
                answer = await stub.GetToken(request, timeout=PATIENCE)
            except grpc.aio.AioRpcError as error:
                self.outcomes[error.code()] += 1
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    self.details.add(str(error.details()))
                if self.sidecar.returncode is not None:
                    return
                await asyncio.sleep(0.01)
            else:
                self.outcomes[grpc.StatusCode.OK] += 1
                version = random.choice(["", answer.token_version])


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        server.on("/acme/revoke", Reply())
        yield server


@pytest.fixture
def families(server: ScriptedServer) -> Families:
    families = Families(server)
    server.on(TOKEN, families.answer)
    return families


async def _vault(
    folder: Path,
    families: Families,
    *,
    drain_timeout: str,
    redemption_deadline: str = "4s",
    due: bool = True,
    workers: int = 1,
) -> Path:
    """A vault with a grant of everybody: half of them over, and renewed by whoever comes first."""
    config = make_vault(
        folder,
        {"acme": scripted_brand(families.server, "acme")},
        server={"drain_timeout": drain_timeout, "workers": workers},
        renewal={"redemption_deadline": redemption_deadline, "lease": "8s"},
        limits={"rate": 100_000, "burst": 100_000, "concurrency": 10_000},
    )
    half = len(PEOPLE) // 2
    async with seeding(config) as seeder:
        await seeder.add({name: families.first(name) for name in PEOPLE[:half]}, age=LIFE + 100, due=due)
        await seeder.add({name: families.first(name) for name in PEOPLE[half:]})
    return config


@asynccontextmanager
async def _channel(sidecar: SidecarProcess) -> AsyncIterator[grpc.aio.Channel]:
    """A connection of its own, that repeats nothing by itself."""
    ca, chain, key = (path.read_bytes() for path in _files(sidecar))
    credentials = grpc.ssl_channel_credentials(ca, key, chain)
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(sidecar.address, credentials, options) as channel:
        yield channel


def _files(sidecar: SidecarProcess) -> Iterator[Path]:
    files = caller_files(sidecar.folder, BOT)
    yield from (files["ca"], files["certificate"], files["private_key"])


@pytest.mark.parametrize("workers", [1, 2])
async def test_under_load_no_call_fails_but_with_unavailable_and_nothing_is_lost(
    workers: int, tmp_path: Path, families: Families
) -> None:
    config = await _vault(tmp_path / "vault", families, drain_timeout="20s", workers=workers)
    async with running(config) as sidecar, AsyncExitStack() as channels:
        load = Load(sidecar)
        stubs = [
            TokenVaultStub(await channels.enter_async_context(_channel(sidecar))) for _ in range(CONNECTIONS)
        ]
        callers = [asyncio.create_task(load.ask(stub)) for stub in stubs * CALLERS]
        await families.server.arrived(TOKEN, len(PEOPLE), within=PATIENCE)
        begun = time.monotonic()
        status = await asyncio.to_thread(sidecar.stop)
        took = time.monotonic() - begun
        await asyncio.gather(*callers)
    assert status == 0
    assert took < 20
    assert set(load.outcomes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}, load.details
    await _everybody_can_renew(config)
    assert families.replays == []


async def test_what_is_not_over_in_time_is_told_so_and_its_answer_still_waited_for(
    tmp_path: Path, families: Families
) -> None:
    """Callers get UNAVAILABLE when their part of the time is over; the redemption has the rest."""
    config = await _vault(
        tmp_path / "vault", families, drain_timeout="6s", redemption_deadline="5900ms", due=False
    )
    families.held = asyncio.Event()
    async with running(config) as sidecar, _channel(sidecar) as channel:
        request = pb.GetTokenRequest(brand_id="acme")
        request.context.consumer.consumer_id = PEOPLE[0]
        call = asyncio.ensure_future(_code(TokenVaultStub(channel).GetToken(request, timeout=PATIENCE)))
        await families.server.arrived(TOKEN, within=PATIENCE)
        begun = time.monotonic()
        stopping = asyncio.create_task(asyncio.to_thread(sidecar.stop))
        assert await call is grpc.StatusCode.UNAVAILABLE
        families.held.set()
        assert await stopping == 0
        assert time.monotonic() - begun < 6
    await _everybody_can_renew(config)
    assert families.replays == []


async def test_who_watches_its_health_is_told_and_holds_nothing_up(
    tmp_path: Path, families: Families
) -> None:
    config = await _vault(tmp_path / "vault", families, drain_timeout="60s")
    async with running(config) as sidecar, _channel(sidecar) as channel:
        watch = HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(asyncio.to_thread(sidecar.stop))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await _code(watch.read()) is grpc.StatusCode.UNAVAILABLE
        assert await stopping == 0  # SidecarProcess waits for less than the drain


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(
    second: signal.Signals, tmp_path: Path, families: Families
) -> None:
    config = await _vault(tmp_path / "vault", families, drain_timeout="10m")
    families.held = asyncio.Event()
    async with running(config) as sidecar:
        await families.server.arrived(TOKEN, within=PATIENCE)  # the background renews
        os.kill(sidecar.pid, signal.SIGTERM)
        await eventually(lambda: _says(sidecar, "stopping"))
        assert sidecar.returncode is None
        assert await asyncio.to_thread(sidecar.stop, second) == -second


async def _everybody_can_renew(config: Path) -> None:
    """The refresh token that is stored is the one that is good."""
    async with running(config) as sidecar, connect(sidecar) as bot:

        async def renew(name: str) -> None:
            token = await bot.get_token("acme", consumer=name)
            await bot.get_token("acme", consumer=name, rejected_token_version=token.token_version)

        await asyncio.gather(*map(renew, PEOPLE))


async def _code(call: Awaitable[object]) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return failed.value.code()


async def _says(sidecar: SidecarProcess, event: str) -> bool:
    return f'"event": "{event}"' in sidecar.stderr.read_text()
