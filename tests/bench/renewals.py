"""What renewing costs: the callers that read meanwhile, and against a bare client that only asks."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from statistics import median

import uvloop

from tests.bench import vault
from tests.bench.load import Round, Seen
from tests.bench.processes import Failed, LoadProcess, load, server
from tests.bench.throughput import AT_ONCE, Throughput, throughput
from tests.bench.token_endpoint import counts
from tokenvault_sidecar.adapters.keyring import open_keyring
from tokenvault_sidecar.adapters.sqlite import SqliteStore
from tokenvault_sidecar.config import load_config
from tokenvault_sidecar.core.sealing import Sealer
from tokenvault_sidecar.wiring import keks

DUE_RATE = 200.0
"""Grants that become due, a second."""

CALL_RATE = 200.0
"""GetToken calls a second: the load and the token endpoint share a core with others."""

READ = 1000
"""Grants that are read. Others are renewed: no read waits for an authorization server."""

LATENCY_AIM = 1.3
_LEAD = 1.5  # the longest pause between two looks for what is due
_RENEWED_WITHIN = 30.0
_FIRST_RUSHED = 1_000_000

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """Pairs of rounds of reading, and the seconds of each; pairs of rounds of renewing, and the renewals."""

    read_pairs: int
    read_seconds: float
    renew_pairs: int
    renewals: int


@dataclass(frozen=True)
class Latency:
    """GetToken with and without renewals beside it, medians over the rounds, in microseconds.

    The ratios are medians over pairs of rounds. `renewals_per_second` is what
    the token endpoint counted meanwhile, `renewed` all of them.
    """

    calls_per_second: float
    renewals_per_second: float
    renewed: int
    p50_us: float
    p99_us: float
    p50_us_without: float
    p99_us_without: float
    p50_ratio: float
    p99_ratio: float
    p50_ratios: tuple[float, ...]
    p99_ratios: tuple[float, ...]
    aim: float


@dataclass(frozen=True)
class Found:
    """All that was measured here."""

    latency: Latency
    throughput: Throughput


def measure(folder: Path, plan: Plan, say: Say) -> Found:
    """Both, against one token endpoint. Raises Failed."""
    with server("tests.bench.token_endpoint", str(vault.TOKEN_BYTES)) as endpoint:
        config = vault.configure(folder, f"http://{endpoint.address}")
        asyncio.run(vault.fill(load_config(config), READ))
        with (
            load(folder, READ) as callers,
            server("tokenvault_sidecar", "serve", "--config", str(config)) as ours,
        ):
            say(
                f"{CALL_RATE:g} calls a second with {DUE_RATE:g} grants a second due, and without: "
                f"{plan.read_pairs} rounds of {plan.read_seconds:g} s each, by turns"
            )
            latency = asyncio.run(_latency(config, callers, ours.address, endpoint.address, plan, say))
        say(
            f"renewals, {AT_ONCE} at once, against a bare client: "
            f"{plan.renew_pairs} rounds of {plan.renewals} each, by turns"
        )
        rate = uvloop.run(
            throughput(config, first=_FIRST_RUSHED, pairs=plan.renew_pairs, count=plan.renewals, say=say)
        )
        if replayed := counts(endpoint.address).replayed:
            raise Failed(f"{replayed} refresh tokens were redeemed twice")
    return Found(latency, rate)


async def _latency(
    config: Path, callers: LoadProcess, address: str, endpoint: str, plan: Plan, say: Say
) -> Latency:
    wanted = Round(address, "/tokenvault.v1.TokenVault/GetToken", plan.read_seconds, CALL_RATE)
    pairs = list[tuple[_Seen, _Seen]]()
    async with _seeding(config) as seed:

        async def one(*, renewing: bool) -> _Seen:
            lead = _LEAD if renewing else 0.0
            span = round((lead + wanted.seconds) * DUE_RATE)
            begin, before = time.time() + 0.1, counts(endpoint).renewed
            # As much is stored before either round: only what is due differs.
            await seed([begin + n / DUE_RATE if renewing else None for n in range(span)])
            await asyncio.sleep(max(begin + lead - time.time(), 0.0))
            start = counts(endpoint).renewed
            seen = await asyncio.to_thread(callers.run, wanted)
            renewed = counts(endpoint).renewed - start
            if renewing:
                await _until_renewed(endpoint, before + span)
            elif renewed:
                raise Failed(f"{renewed} grants were renewed in a round without")
            return _Seen(seen, renewed / seen.seconds)

        at_first = counts(endpoint).renewed
        await asyncio.to_thread(callers.run, replace(wanted, seconds=wanted.seconds / 4))
        for number in range(plan.read_pairs):
            # Each side goes first in every other pair.
            order = (True, False) if number % 2 else (False, True)
            sides = {renewing: await one(renewing=renewing) for renewing in order}
            busy, idle = pair = sides[True], sides[False]
            pairs.append(pair)
            say(
                f"  round {number + 1:>2}: p50 {busy.load.p50 / idle.load.p50:.2f}, "
                f"p99 {busy.load.p99 / idle.load.p99:.2f}, {busy.renewals:.0f} renewals a second"
            )
        renewed = counts(endpoint).renewed - at_first
    p50s = tuple(busy.load.p50 / idle.load.p50 for busy, idle in pairs)
    p99s = tuple(busy.load.p99 / idle.load.p99 for busy, idle in pairs)
    return Latency(
        calls_per_second=median(busy.load.calls / busy.load.seconds for busy, _ in pairs),
        renewals_per_second=median(busy.renewals for busy, _ in pairs),
        renewed=renewed,
        p50_us=median(busy.load.p50 for busy, _ in pairs) * 1e6,
        p99_us=median(busy.load.p99 for busy, _ in pairs) * 1e6,
        p50_us_without=median(idle.load.p50 for _, idle in pairs) * 1e6,
        p99_us_without=median(idle.load.p99 for _, idle in pairs) * 1e6,
        p50_ratio=median(p50s),
        p99_ratio=median(p99s),
        p50_ratios=p50s,
        p99_ratios=p99s,
        aim=LATENCY_AIM,
    )


@dataclass(frozen=True)
class _Seen:
    """One round: what the load saw, and the renewals a second that the token endpoint saw."""

    load: Seen
    renewals: float


@asynccontextmanager
async def _seeding(config: Path) -> AsyncIterator[Callable[[Sequence[float | None]], Awaitable[None]]]:
    """Stores a grant for each time given, due then; None: never. Beside the sidecar, in the same file."""
    settings = load_config(config)
    store, numbers = SqliteStore.open(settings.store.file), itertools.count(READ)
    try:
        sealer = Sealer(await open_keyring(store, keks(settings)[0], time.time()))

        async def seed(times: Sequence[float | None]) -> None:
            rows = [replace(vault.row(sealer, next(numbers), time.time()), renew_at=due) for due in times]
            assert all(await asyncio.gather(*(store.put_grant(row, replaces=None) for row in rows)))

        yield seed
    finally:
        await store.close()


async def _until_renewed(endpoint: str, renewed: int) -> None:
    until = time.monotonic() + _RENEWED_WITHIN
    while (now := counts(endpoint).renewed) < renewed:
        if time.monotonic() > until:
            raise Failed(f"{renewed - now} grants that were due are still not renewed")
        await asyncio.sleep(0.05)


def tables(found: Found) -> str:
    """For people."""
    latency, rate = found.latency, found.throughput
    return "\n".join(
        [
            f"GetToken while {latency.renewals_per_second:.0f} grants a second are renewed, "
            f"{latency.calls_per_second:.0f} calls a second",
            f"  {'':<10}{'p50':>11}{'p99':>11}",
            f"  {'with':<10}{latency.p50_us / 1000:>8.2f} ms{latency.p99_us / 1000:>8.2f} ms",
            f"  {'without':<10}{latency.p50_us_without / 1000:>8.2f} ms"
            f"{latency.p99_us_without / 1000:>8.2f} ms",
            _ratio("p50", latency.p50_ratio, latency.p50_ratios, most=latency.aim),
            _ratio("p99", latency.p99_ratio, latency.p99_ratios, most=latency.aim),
            "",
            f"Renewals, {rate.at_once} at once",
            f"  the core {rate.per_second:,.0f}/s, a bare client {rate.bare_per_second:,.0f}/s",
            _ratio("renewals a second", rate.ratio, rate.ratios, least=rate.aim),
        ]
    )


def _ratio(what: str, value: float, values: Sequence[float], *, least: float = 0.0, most: float = inf) -> str:
    aim = f"at most {most:.2f}" if most < inf else f"at least {least:.2f}"
    return (
        f"  ratio of {what} {value:.2f}, aim {aim} {'met' if least <= value <= most else 'missed'}; "
        f"median of {len(values)} pairs of rounds, {min(values):.2f} to {max(values):.2f}"
    )
