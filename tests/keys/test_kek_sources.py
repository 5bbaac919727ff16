"""Sidecars whose KEK is elsewhere: on a token, or in a KMS; and from one to the other."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from tests.bench import vault
from tests.bench.vault import BRAND
from tests.e2e.vaults import connect, eventually
from tests.keys.sources import PIN, Sources, moto
from tests.keys.test_rotate import keys
from tests.running import CannotStart, SidecarProcess
from tokenvault_sidecar.adapters.kek import KeyringError
from tokenvault_sidecar.config import load_config
from tokenvault_sidecar.config.kek_uri import KekUri
from tokenvault_sidecar.wiring import open_kek

FEW = 5
ELSEWHERE = ("pkcs11", "aws-kms")


async def _filled(folder: Path) -> tuple[Path, str]:
    config = vault.configure(folder)
    await vault.fill(load_config(config), FEW)
    text = config.read_text().replace('log_level = "warning"', 'log_level = "info"')
    config.write_text(text)
    return config, text


def _with(text: str, kek: str, previous: str | None = None) -> str:
    lines = f'kek = "{kek}"' + (f'\nprevious_kek = "{previous}"' if previous else "")
    assert 'kek_file = "kek"' in text
    return text.replace('kek_file = "kek"', lines)


@pytest.mark.parametrize("scheme", ELSEWHERE)
async def test_from_a_file_to_elsewhere_and_a_start_from_there(
    scheme: str, sources: Sources, tmp_path: Path
) -> None:
    config, text = await _filled(tmp_path / "vault")
    key = sources.make(scheme, f"moved-{scheme}")
    sidecar = SidecarProcess(config)
    await asyncio.to_thread(sidecar.start)
    try:
        async with connect(sidecar, "bot") as bot:
            token = await bot.get_token(BRAND, consumer="consumer-00000001")
            config.write_text(_with(text, key.uri, "file:kek"))
            os.kill(sidecar.pid, signal.SIGHUP)
            await eventually(lambda: _said(sidecar, "reloaded"))
            done = await asyncio.to_thread(keys, "rewrap", config=config)
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.startswith("2 keys are wrapped")
            assert await bot.get_token(BRAND, consumer="consumer-00000001") == token
    finally:
        await asyncio.to_thread(sidecar.stop)
    config.write_text(_with(text, key.uri))
    again = SidecarProcess(config)
    await asyncio.to_thread(again.start)
    try:
        async with connect(again, "bot") as bot:
            assert await bot.get_token(BRAND, consumer="consumer-00000001") == token
        rotated = await asyncio.to_thread(keys, "rotate", config=config)
        assert rotated.returncode == 0, rotated.stderr
    finally:
        await asyncio.to_thread(again.stop)
    written = done.stdout + rotated.stdout + sidecar.stderr.read_text() + again.stderr.read_text()
    assert PIN not in written
    assert "canary-aws-secret" not in written
    config.write_text(text)
    with pytest.raises(CannotStart, match="is wrapped by KEK"):
        await asyncio.to_thread(SidecarProcess(config).start)


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        yield free.getsockname()[1]


async def test_a_kms_that_is_away_costs_nothing_but_what_needs_it(
    sources: Sources, tmp_path: Path, port: int
) -> None:
    config, text = await _filled(tmp_path / "vault")
    with moto() as url:
        key = Sources(tmp_path, url).aws_kms("leaves")
        config.write_text(_with(text, key.uri, "file:kek"))
        assert (await asyncio.to_thread(keys, "rewrap", config=config)).returncode == 0
        config.write_text(_with(text, key.uri))
        sidecar = SidecarProcess(config)
        await asyncio.to_thread(sidecar.start)
    try:
        async with connect(sidecar, "bot") as bot:
            await bot.get_token(BRAND, consumer="consumer-00000001")
            os.kill(sidecar.pid, signal.SIGHUP)
            await eventually(lambda: _said(sidecar, "reloaded"))
            await bot.start_delegation(BRAND, consumer="new")  # seals
            await bot.get_token(BRAND, consumer="consumer-00000001")
        refused = await asyncio.to_thread(keys, "rotate", config=config)
        assert refused.returncode == 2
        assert "AWS KMS" in refused.stderr
        assert "cannot be asked" in refused.stderr
    finally:
        await asyncio.to_thread(sidecar.stop)
    with pytest.raises(CannotStart, match="see that its endpoint can be reached"):
        await asyncio.to_thread(SidecarProcess(config).start)


async def test_a_token_that_is_away_is_named(sources: Sources, tmp_path: Path) -> None:
    config, text = await _filled(tmp_path / "vault")
    key = sources.pkcs11("away")
    for wrong, what in (
        (key.uri.replace("token=vault", "token=other"), "NoSuchToken"),
        (key.uri.replace("object=away", "object=other"), "NoSuchKey"),
    ):
        config.write_text(_with(text, wrong))
        with pytest.raises(CannotStart, match=what) as refused:
            await asyncio.to_thread(SidecarProcess(config).start)
        assert PIN not in str(refused.value)


@pytest.mark.parametrize(("scheme", "module"), [("pkcs11", "pkcs11"), ("aws-kms", "boto3")])
def test_a_missing_extra_is_named(
    scheme: str, module: str, sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = sources.make(scheme, f"extra-{scheme}").uri
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(KeyringError, match=rf"pip install 'tokenvault-sidecar\[{scheme}\]'"):
        open_kek(TypeAdapter(KekUri).validate_python(uri, context=tmp_path))


async def _said(sidecar: SidecarProcess, event: str) -> bool:
    return event in sidecar.stderr.read_text()
