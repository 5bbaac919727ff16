"""Renewals a second: the core's, which lose nothing, against a bare client's, which only ask.

Both in this process, by turns. The core takes leases, commits what it is
answered durably, and makes the same requests over the same kind of
connections; the bare client keeps no token but in memory.
"""

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from authlib.integrations.httpx_client import AsyncOAuth2Client

from tests.bench import vault
from tokenvault_sidecar.adapters.keyring import KeyKeeper
from tokenvault_sidecar.adapters.logs import LogEvents, configure_logging
from tokenvault_sidecar.adapters.sqlite import SqliteStore
from tokenvault_sidecar.config import Config, load_config
from tokenvault_sidecar.core.background import Background
from tokenvault_sidecar.core.renewal import Renewer
from tokenvault_sidecar.core.revocation import Revoker
from tokenvault_sidecar.core.sealing import Sealer
from tokenvault_sidecar.core.vault import Vault
from tokenvault_sidecar.wiring import Remotes, keks, renewal_settings

AT_ONCE = 8
"""Renewals under way at once, on either side: as many as the background has."""

AIM = 0.7

Renew = Callable[[int], Awaitable[None]]
"""Renews the grant of this number."""


@dataclass(frozen=True)
class Throughput:
    """Renewals a second of the core and of the bare client; medians, the ratio's over pairs of rounds."""

    at_once: int
    per_second: float
    bare_per_second: float
    ratio: float
    ratios: tuple[float, ...]
    aim: float


async def throughput(
    path: Path, *, first: int, pairs: int, count: int, say: Callable[[str], None]
) -> Throughput:
    """Rounds of `count` renewals by turns, the core's of grants from number `first` on."""
    config = load_config(path)
    ours, theirs = list[float](), list[float]()
    async with _core(config, range(first, first + count)) as core, _bare(config, count) as bare:
        for number in range(pairs + 1):
            # Each side goes first in every other pair.
            for renew, took in ((core, ours), (bare, theirs))[:: 1 if number % 2 else -1]:
                took.append(await _seconds(renew, count))
            if number:
                say(f"  round {number:>2}: {theirs[-1] / ours[-1]:.2f}")
    ours, theirs = ours[1:], theirs[1:]  # the first were to warm up
    ratios = tuple(bare_took / took for took, bare_took in zip(ours, theirs, strict=True))
    return Throughput(
        at_once=AT_ONCE,
        per_second=count / median(ours),
        bare_per_second=count / median(theirs),
        ratio=median(ratios),
        ratios=ratios,
        aim=AIM,
    )


async def _seconds(renew: Renew, count: int) -> float:
    """How long it takes to renew so many, AT_ONCE at a time."""
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await renew(number)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as workers:
        for _ in range(AT_ONCE):
            workers.create_task(worker())
    return time.perf_counter() - started


@asynccontextmanager
async def _core(config: Config, numbers: range) -> AsyncIterator[Renew]:
    """The sidecar's own renewal of grants that it stores, all but the calls of a sidecar."""
    configure_logging(config.server.log_level, config.server.log_format)
    store, remotes = SqliteStore.open(config.store.file), Remotes(config, time.time)
    try:
        keys = await KeyKeeper.open(store, [keks(config)[0]], time.time())
        sealer = Sealer(keys.keyring)
        events = LogEvents()
        core = Vault(
            store=store,
            sealer=sealer,
            keys=keys,
            brands={brand.id: brand for brand in config.to_brands()},
            servers=remotes.servers,
            clock=time.time,
            events=events,
            background=Background(events),
            new_id=lambda: secrets.token_urlsafe(16),
            new_secret=lambda: secrets.token_urlsafe(32),
            jitter=random.random,
        )
        renewer = Renewer(core, Revoker(core), renewal_settings(config))
        rows = [vault.row(sealer, number, time.time()) for number in numbers]
        assert all(await asyncio.gather(*(store.put_grant(row, replaces=None) for row in rows)))
        stored = [(row.key, row.version) for row in rows]

        async def renew(number: int) -> None:
            key, version = stored[number]
            stored[number] = key, (await renewer.renew(key, version)).tokens.version

        yield renew
    finally:
        await asyncio.gather(*(remote.aclose() for remote in remotes.all()))
        await store.close()


@asynccontextmanager
async def _bare(config: Config, count: int) -> AsyncIterator[Renew]:
    """Authlib's client, one for all as in the sidecar."""
    brand = config.brands[vault.BRAND]
    assert brand.client_secret is not None
    refresh_tokens = [secrets.token_urlsafe(32) for _ in range(count)]
    async with AsyncOAuth2Client(brand.client_id, brand.client_secret.reveal()) as client:

        async def renew(number: int) -> None:
            answer = await client.refresh_token(brand.token_endpoint, refresh_tokens[number])
            refresh_tokens[number] = answer["refresh_token"]

        yield renew
