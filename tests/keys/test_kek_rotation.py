"""The KEK is changed while sidecars serve, and what opened the store before opens it no more."""

import asyncio
import base64
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.bench import vault
from tests.bench.vault import BRAND
from tests.e2e.vaults import connect, eventually, running
from tests.keys.rotating import Load, calls
from tests.keys.test_rotate import keys, listed
from tests.postgres.fixtures import PutStore
from tests.running import CannotStart, SidecarProcess
from tokenvault_sidecar.config import load_config

FEW = 20
SIDECARS = 4
RATE = 20.0
"""Calls a second at each of them."""


async def test_the_kek_is_changed_step_by_step_while_calls_are_served(
    tmp_path: Path, put_store: PutStore
) -> None:
    """As docs/operations.md says, by four sidecars on one store: each has a configuration of its own.

    Meanwhile they differ. A data key that is added just then is opened by all.
    """
    config = vault.configure(tmp_path / "vault")
    put_store(config)
    await vault.fill(load_config(config), FEW)
    text = config.read_text().replace('log_level = "warning"', 'log_level = "info"')
    new = config.with_name("new-kek")
    new.touch(mode=0o600)
    new.write_text(base64.b64encode(os.urandom(32)).decode() + "\n")
    both = text.replace('kek_file = "kek"', 'kek = "file:new-kek"\nprevious_kek = "file:kek"')
    alone = text.replace('kek_file = "kek"', 'kek = "file:new-kek"')
    assert len({text, both, alone}) == 3
    load, said = Load(), []

    async def command(*words: str) -> None:
        done = await asyncio.to_thread(keys, *words, config=config)
        assert (done.returncode, done.stderr) == (0, "")
        said.append(done.stdout)

    async def roll_out(changed: str, sidecars: list[SidecarProcess]) -> None:
        """To one after the other; a data key is added when half of them have it."""
        config.write_text(changed)
        for sidecar in sidecars:
            if sidecar is sidecars[SIDECARS // 2]:
                await command("rotate")
            await reload(sidecar, changed, "reloaded")

    async with AsyncExitStack() as stack:
        sidecars = []
        for number in range(SIDECARS):
            folder = tmp_path / f"logs-{number}"
            folder.mkdir()
            its = config.with_name(f"sidecar-{number}.toml")
            its.write_text(text)
            sidecars.append(await stack.enter_async_context(running(its, logs=folder)))
        calling = [asyncio.create_task(calls(sidecar, FEW, RATE, load)) for sidecar in sidecars]
        try:
            await reload(sidecars[0], alone, "reload_refused")  # nothing but the old one opens the keys
            await roll_out(both, sidecars)
            await command("rewrap")
            assert said[-1].startswith("3 keys are wrapped by the configured KEK now")
            await roll_out(alone, sidecars)
            assert len({key["kek"] for key in await asyncio.to_thread(listed, config)}) == 1
        finally:
            for task in calling:
                task.cancel()
            await asyncio.wait(calling)
        assert load.failed == []
        assert load.served > 100
    again = SidecarProcess(config)
    await asyncio.to_thread(again.start)
    await asyncio.to_thread(again.stop)
    written = "".join([*said, *(sidecar.stderr.read_text() for sidecar in [*sidecars, again])])
    for secret in (new, config.with_name("kek")):
        assert secret.read_text().strip() not in written
    config.write_text(text)
    with pytest.raises(CannotStart, match="is wrapped by KEK"):
        await asyncio.to_thread(SidecarProcess(config).start)


async def reload(sidecar: SidecarProcess, changed: str, event: str) -> None:
    """Have it take this configuration over; the event says what it makes of it."""
    before = sidecar.stderr.read_text().count(event)

    async def said() -> bool:
        return sidecar.stderr.read_text().count(event) > before

    sidecar.config.write_text(changed)
    os.kill(sidecar.pid, signal.SIGHUP)
    await eventually(said)


async def test_what_was_sealed_is_counted_at_a_stop(tmp_path: Path, put_store: PutStore) -> None:
    config = vault.configure(tmp_path / "vault")
    put_store(config)
    await vault.fill(load_config(config), FEW)

    async def seals() -> int:
        (active,) = [key for key in await asyncio.to_thread(listed, config) if key["purpose"] == "data"]
        assert isinstance(active["seals"], int)
        return active["seals"]

    before = await seals()
    async with running(config) as sidecar, connect(sidecar, "bot") as bot:
        for number in range(3):
            await bot.start_delegation(BRAND, consumer=f"new-{number}")
    assert await seals() >= before + 3
