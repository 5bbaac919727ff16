"""The KEK is changed while a sidecar serves, and what opened the store before opens it no more."""

import asyncio
import base64
import os
import signal
from pathlib import Path

import pytest

from tests.bench import vault
from tests.bench.vault import BRAND
from tests.e2e.vaults import connect, eventually, running
from tests.keys.test_rotate import keys, listed
from tests.postgres.fixtures import PutStore
from tests.running import CannotStart, SidecarProcess
from tokenvault_sidecar.config import load_config

FEW = 20


async def test_the_kek_is_changed_step_by_step_while_calls_are_served(
    tmp_path: Path, put_store: PutStore
) -> None:
    """As docs/operations.md says."""
    config = vault.configure(tmp_path / "vault")
    put_store(config)
    await vault.fill(load_config(config), FEW)
    text = config.read_text().replace('log_level = "warning"', 'log_level = "info"')
    config.write_text(text)
    new = config.with_name("new-kek")
    new.touch(mode=0o600)
    new.write_text(base64.b64encode(os.urandom(32)).decode() + "\n")
    both = text.replace('kek_file = "kek"', 'kek = "file:new-kek"\nprevious_kek = "file:kek"')
    alone = text.replace('kek_file = "kek"', 'kek = "file:new-kek"')
    assert len({text, both, alone}) == 3
    sidecar = SidecarProcess(config)
    await asyncio.to_thread(sidecar.start)

    async def says(event: str, times: int) -> None:
        async def said() -> bool:
            return sidecar.stderr.read_text().count(event) >= times

        await eventually(said)

    async def reload() -> None:
        before = sidecar.stderr.read_text().count("reloaded")
        os.kill(sidecar.pid, signal.SIGHUP)
        await says("reloaded", before + 1)

    try:
        async with connect(sidecar, "bot") as bot:
            token = await bot.get_token(BRAND, consumer="consumer-00000001")
            config.write_text(alone)  # too soon: nothing but the old one opens the keys
            os.kill(sidecar.pid, signal.SIGHUP)
            await says("reload_refused", 1)
            config.write_text(both)
            await reload()
            done = await asyncio.to_thread(keys, "rewrap", config=config)
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.startswith("2 keys are wrapped by the configured KEK now")
            config.write_text(alone)
            await reload()
            assert len({key["kek"] for key in await asyncio.to_thread(listed, config)}) == 1
            assert await bot.get_token(BRAND, consumer="consumer-00000001") == token
            rotated = await asyncio.to_thread(keys, "rotate", config=config)
            assert rotated.returncode == 0, rotated.stderr
            assert await bot.get_token(BRAND, consumer="consumer-00000001") == token
    finally:
        await asyncio.to_thread(sidecar.stop)
    again = SidecarProcess(config)
    await asyncio.to_thread(again.start)
    await asyncio.to_thread(again.stop)
    for secret in (new, config.with_name("kek")):
        assert secret.read_text().strip() not in sidecar.stderr.read_text() + done.stdout + rotated.stdout
    config.write_text(text)
    with pytest.raises(CannotStart, match="is wrapped by KEK"):
        await asyncio.to_thread(SidecarProcess(config).start)


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
