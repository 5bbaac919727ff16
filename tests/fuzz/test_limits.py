"""A caller over its limits is refused, told when to come again, and slows nobody else."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from tests.authserver.scripted import Reply, ScriptedServer
from tests.e2e.scripted import delegate, issuing, scripted_brand, token_path
from tests.e2e.vaults import BOT, OTHER_BOT, SERVICE, Whose, connect, eventually, make_vault, running
from tests.running import SidecarProcess
from tokenvault import AsyncTokenVaultClient, DeadlineExceeded, RateLimited

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALICE = Whose(consumer="alice")
RATE, BURST = 50.0, 50
AT_ONCE = 200
SLOWER = 8
"""Times. Mostly 2: refusing too takes the server's time; 13 where refusals are not held back."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sidecar(
    server: ScriptedServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[SidecarProcess]:
    """All have the limits of [limits], but two bots have their own."""
    own = {BOT: {}, OTHER_BOT: {"rate": RATE, "burst": BURST, "concurrency": 2 * AT_ONCE}}
    config = make_vault(
        tmp_path_factory.mktemp("vault"),
        {"acme": scripted_brand(server, "acme")},
        callers={name: _caller(name, limits) for name, limits in own.items()},
        limits={"rate": 0.01, "burst": 3, "concurrency": 2},
    )
    async with running(config) as process:
        yield process


@pytest_asyncio.fixture(loop_scope="module")
async def bot(sidecar: SidecarProcess, server: ScriptedServer) -> AsyncIterator[AsyncTokenVaultClient]:
    """With a grant to read."""
    server.on(token_path("acme"), issuing(server))
    async with connect(sidecar) as vault:
        await delegate(vault, server, "acme", ALICE)
        yield vault


def _caller(name: str, limits: Mapping[str, Any]) -> dict[str, Any]:
    everything = {
        "rpcs": ["StartDelegation", "CompleteDelegation", "GetToken"],
        "brands": ["*"],
        "contexts": ["consumer"],
    }
    return {
        "identities": [f"spiffe://tokenvault.test/{name}"],
        "allow": [everything],
        "limits": dict(limits),
    }


async def test_a_flood_is_refused_and_slows_nobody_else(
    sidecar: SidecarProcess, bot: AsyncTokenVaultClient
) -> None:
    """By what a call takes; the flood comes from a process of its own."""
    await _seconds_a_call(bot)
    quiet = await _seconds_a_call(bot)
    async with _flood(sidecar) as told:
        flooded = await _seconds_a_call(bot)
    assert flooded < SLOWER * quiet, f"{quiet * 1000:.2f} ms, flooded {flooded * 1000:.2f} ms; {told}"
    assert told["problems"] == []
    assert told["served"] <= BURST + RATE * told["seconds"] + 1
    assert told["refused"] > told["served"]
    assert told["least_wait"] > 0


async def test_the_default_limits_are_for_who_has_none_of_its_own(
    sidecar: SidecarProcess, bot: AsyncTokenVaultClient
) -> None:
    async with connect(sidecar, SERVICE) as service:
        for _ in range(3):
            await service.get_token("acme", **ALICE)
        with pytest.raises(RateLimited) as refused:
            await service.get_token("acme", **ALICE)
    assert refused.value.retry_after is not None
    assert 0 < refused.value.retry_after <= 100


async def test_calls_at_once(server: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Calls that wait for the authorization server take up their caller's places, and nobody else's."""
    config = make_vault(
        tmp_path_factory.mktemp("vault"),
        {"acme": scripted_brand(server, "acme")},
        callers={BOT: _caller(BOT, {}), OTHER_BOT: _caller(OTHER_BOT, {"concurrency": 2})},
    )
    server.on(token_path("acme"), issuing(server))
    async with running(config) as process, connect(process) as bot, connect(process, OTHER_BOT) as other:
        await delegate(bot, server, "acme", ALICE)
        version = (await bot.get_token("acme", **ALICE)).token_version
        answer = asyncio.Event()
        server.on(token_path("acme"), Reply(status=503, delay=answer))

        async def refused(rejected: str | None) -> float | None:
            try:
                await other.get_token("acme", **ALICE, rejected_token_version=rejected)
            except RateLimited as error:
                return error.retry_after
            return None

        async def served() -> bool:
            return await refused(version) is None

        held = [
            asyncio.create_task(eventually(served)) for _ in range(2)
        ]  # the one that asks below may be first
        assert await eventually(lambda: refused(None))
        assert (await bot.get_token("acme", **ALICE)).token_version == version
        answer.set()
        await asyncio.wait(held)
        assert (await other.get_token("acme", **ALICE)).token_version == version


async def test_no_call_takes_longer_than_the_longest(
    server: ScriptedServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = make_vault(
        tmp_path_factory.mktemp("vault"),
        {"acme": scripted_brand(server, "acme")},
        limits={"longest_call": "500ms"},
    )
    server.on(token_path("acme"), issuing(server))
    async with running(config) as process, connect(process) as bot:
        await delegate(bot, server, "acme", ALICE)
        version = (await bot.get_token("acme", **ALICE)).token_version
        answer = asyncio.Event()
        server.on(token_path("acme"), Reply(status=503, delay=answer))
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await bot.get_token("acme", **ALICE, rejected_token_version=version, timeout=25)
        assert 0.5 <= time.monotonic() - begun < 20
        answer.set()


@asynccontextmanager
async def _flood(sidecar: SidecarProcess) -> AsyncIterator[dict[str, Any]]:
    """Around what is to happen meanwhile; what became of the flood, once it is over."""
    command = (sys.executable, "-m", "tests.fuzz.flood", sidecar.address, str(sidecar.folder), OTHER_BOT)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, str(AT_ONCE), stdin=pipe, stdout=pipe)
    told: dict[str, Any] = {}
    try:
        async with connect(sidecar, OTHER_BOT) as same:

            async def flooded() -> bool:
                try:
                    await same.get_token("acme", **ALICE)
                except RateLimited:
                    return True
                return False

            await eventually(flooded)
        yield told
    finally:
        said, _ = await process.communicate(b"")
        told.update(json.loads(said))


async def _seconds_a_call(vault: AsyncTokenVaultClient) -> float:
    """The mean of 500 calls."""
    begun = time.monotonic()
    for _ in range(500):
        await vault.get_token("acme", **ALICE)
    return (time.monotonic() - begun) / 500
