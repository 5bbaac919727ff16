"""`tokenvault keys rotate` beside a sidecar under load, killed on the way."""

import asyncio
import random
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.vault import BRAND
from tests.running import COMMAND, SidecarProcess, caller_files
from tokenvault.aio import AsyncTokenVaultClient
from tokenvault_sidecar.config import load_config
from tokenvault_sidecar.wiring import opened_store

CHALLENGES = 0.02
"""The share of calls that start a delegation: they write, sealed, while others read."""

LONGEST = 3600.0
_LOOK = 0.002
_CALL_SECONDS = 60.0


@dataclass
class Load:
    """What became of the calls."""

    served: int = 0
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        return self.served / self.seconds


async def calls(sidecar: SidecarProcess, consumers: int, rate: float, load: Load) -> None:
    """Calls for grants of any of the consumers, begun at this rate whatever becomes of the others."""
    files = caller_files(sidecar.folder, "bot")
    began, number, under_way = time.monotonic(), 0, set[asyncio.Task[None]]()
    async with AsyncTokenVaultClient(sidecar.address, timeout=_CALL_SECONDS, **files) as vault:

        async def one() -> None:
            consumer = f"consumer-{random.randrange(consumers):08}"
            try:
                if random.random() < CHALLENGES:
                    await vault.start_delegation(BRAND, consumer=consumer)
                else:
                    await vault.get_token(BRAND, consumer=consumer)
            except Exception as error:
                load.failed.append(f"{type(error).__name__}: {error}")
            else:
                load.served += 1

        try:
            while True:
                call = asyncio.create_task(one())
                under_way.add(call)
                call.add_done_callback(under_way.discard)
                number += 1
                await asyncio.sleep(max(began + number / rate - time.monotonic(), 0.0))
        finally:
            load.seconds = time.monotonic() - began
            await asyncio.gather(*under_way)


@dataclass(frozen=True, slots=True)
class Rotated:
    """How often it was killed with work left, and what the last run said."""

    kills: int
    runs: int
    said: str
    seconds: float


async def rotate(config: Path, *, kills: int) -> Rotated:
    """Rotate to the end, killed (SIGKILL) so many times once it has sealed some records anew."""
    began, killed, runs = time.monotonic(), 0, 0
    async with opened_store(load_config(config)) as opened:
        total = await opened.store.count_sealed(opened.keys.keyring.head(opened.keys.keyring.active))
        while time.monotonic() < began + LONGEST:
            runs += 1
            process = await asyncio.to_thread(_start, config)
            while process.poll() is None and killed < kills:
                await opened.keys.refresh()
                left = await opened.rotation.waiting()
                if 0 < left < total * (kills - killed) / (kills + 1):
                    process.send_signal(signal.SIGKILL)
                    killed += 1
                    break
                await asyncio.sleep(_LOOK)
            said, complained = await asyncio.to_thread(process.communicate)
            if process.returncode != -signal.SIGKILL:
                assert process.returncode == 0, complained
                await opened.keys.refresh()
                assert await opened.rotation.waiting() == 0
                return Rotated(killed, runs, said, time.monotonic() - began)
    raise TimeoutError(f"the rotation did not end in {LONGEST:.0f} s")


async def rotate_under_load(
    config: Path,
    *,
    consumers: int,
    rate: float,
    kills: int,
) -> tuple[Rotated, Load]:
    """Both at once; the load ends with the rotation."""
    load = Load()
    sidecar = SidecarProcess(config)
    await asyncio.to_thread(sidecar.start)
    try:
        calling = asyncio.create_task(calls(sidecar, consumers, rate, load))
        try:
            rotated = await rotate(config, kills=kills)
        finally:
            calling.cancel()
            await asyncio.wait([calling])
    finally:
        await asyncio.to_thread(sidecar.stop)
    return rotated, load


def _start(config: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "keys", "rotate", "--config", str(config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
