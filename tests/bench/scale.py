"""What many grants cost: sidecars on a store with many and on one with few, by turns, as ratios."""

import argparse
import asyncio
import itertools
import secrets
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from tests.bench import vault
from tests.bench.__main__ import GET_TOKEN, progress
from tests.bench.measure import Comparison, Plan, Subject, compare
from tests.bench.processes import Failed, Server, load, server
from tests.postgres.server import PostgresServer, move_to
from tests.running import SidecarProcess
from tokenvault_sidecar.adapters.copy_ends import postgres_end, sqlite_end
from tokenvault_sidecar.adapters.copying import copy
from tokenvault_sidecar.adapters.postgres import PostgresStore
from tokenvault_sidecar.config import Config, load_config
from tokenvault_sidecar.core.ports import GrantRow
from tokenvault_sidecar.wiring import open_store, postgres_settings

AIM = 1.1
"""Of many against few: latency, memory, time to start."""
RATE = 200.0
"""Calls a second: what both sides can answer at ease, so that latency is not a queue's."""

_AT_ONCE = 32
_RENEWING = 5.0
"""Seconds."""
SERVER = {"shared_buffers": "512MB", "max_wal_size": "4GB"}


@dataclass(frozen=True)
class Side:
    """A sidecar's configuration, and the grants in its store."""

    store: str
    grants: int
    config: Path

    @property
    def title(self) -> str:
        return f"{self.grants:,}"

    @property
    def command(self) -> tuple[str, ...]:
        return ("tokenvault_sidecar", "serve", "--config", str(self.config))


def main() -> None:
    """Fill the stores, measure, and print."""
    parser = argparse.ArgumentParser(prog="make bench-scale", description=__doc__)
    parser.add_argument("--grants", type=int, default=1_000_000, help="of the one (%(default)s)")
    parser.add_argument("--few", type=int, default=1_000, help="of the other (%(default)s)")
    parser.add_argument("--rounds", type=int, default=12, help="rounds of each side (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="a round takes (%(default)s)")
    parser.add_argument(
        "--store", choices=("sqlite", "postgresql"), help="the one to measure; both where it is not said"
    )
    parser.add_argument("--folder", type=Path, help="where the stores are made; some 8 KB a grant")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tokenvault-bench-", dir=options.folder) as folder:
        config = vault.configure(Path(folder) / "vault")
        plan = Plan(options.rounds, options.seconds, RATE)
        grants = options.grants, options.few
        try:
            files = [_in_file(config, number) for number in grants]
            if options.store != "postgresql":
                _measure(*files, plan=plan)
            if options.store != "sqlite":
                # It need not sync: what is measured are reads.
                with PostgresServer(settings=SERVER, parent=options.folder) as database:
                    _measure(*(_in_database(side, database) for side in files), plan=plan)
                with PostgresServer(durable=True, parent=options.folder) as database:
                    asyncio.run(_renewing(_in_database(files[1], database)))
            if options.store != "postgresql":
                asyncio.run(_renewing(files[1]))  # last: what it stores does not open
        except Failed as problem:
            sys.exit(f"bench-scale: {problem}")


def _in_file(config: Path, grants: int) -> Side:
    """Another configuration in the same folder, with a store of its own, filled."""
    path = config.with_name(f"sqlite-{grants}.toml")
    text = config.read_text()
    assert text.count('path = "tokenvault.db"') == 1
    path.write_text(text.replace('path = "tokenvault.db"', f'path = "with-{grants}.db"'))
    done = _tenths(f"SQLite: storing {grants:,} grants with tokens of {vault.TOKEN_BYTES} bytes", grants)
    asyncio.run(vault.fill(load_config(path), grants, progress=done))
    return Side("SQLite", grants, path)


def _in_database(side: Side, server: PostgresServer) -> Side:
    """The same grants in a new database."""
    path = side.config.with_name(f"postgresql-{side.grants}.toml")
    path.write_text(side.config.read_text())
    move_to(server, path)
    settings = postgres_settings(load_config(path).store)
    with (
        sqlite_end(load_config(side.config).store.file, make=False) as source,
        postgres_end("PostgreSQL", settings, make=True) as target,
    ):
        copy(source, target, _tenths(f"PostgreSQL: copying {side.title} grants", side.grants))
    return Side("PostgreSQL", side.grants, path)


def _tenths(what: str, whole: int) -> Callable[[int], None]:
    """Says how much is done, told how many more are."""
    say, done = progress(), 0
    say(what)

    def add(more: int) -> None:
        nonlocal done
        before, done = done * 10 // whole, done + more
        if done * 10 // whole > before:
            say(f"  {done:,}")

    return add


def _measure(many: Side, few: Side, *, plan: Plan) -> None:
    size = asyncio.run(_size(load_config(many.config)))
    print(f"{many.store}: {size / many.grants:,.0f} bytes a grant")
    _serving(many, few, plan)
    _starting(many, few, max(plan.rounds // 3, 1))


async def _size(config: Config) -> int:
    """Bytes that the store takes on its disk."""
    if config.store.url is None:
        return config.store.file.stat().st_size
    store = await open_store(config)
    try:
        assert isinstance(store, PostgresStore)
        return await store.size()
    finally:
        await store.close()


def _serving(many: Side, few: Side, plan: Plan) -> None:
    """GetToken of grants taken at random."""
    say = progress()
    with (
        load(many.config.parent, many.grants) as callers,
        server(*few.command) as theirs,
        server(*many.command) as ours,
    ):
        say(
            f"{many.store}: GetToken {RATE:,.0f} times a second, "
            f"{plan.rounds} rounds of {plan.seconds:g} s each, by turns"
        )
        found = compare(
            Subject(many.title, ours, GET_TOKEN, many.grants),
            Subject(few.title, theirs, GET_TOKEN, few.grants),
            callers,
            plan,
            aim=AIM,
            progress=lambda number, ratio: say(f"  round {number:>2}: CPU {ratio:.2f}"),
        )
        memory = _memory(ours), _memory(theirs)
    _print(f"{many.store}: CPU a call", (found.subject.cpu_us, found.base.cpu_us), "µs")
    _print(f"{many.store}: p50", _latency(found, "p50_us"), "ms")
    _print(f"{many.store}: p99", _latency(found, "p99_us"), "ms")
    _print(f"{many.store}: memory", (memory[0] / 1e6, memory[1] / 1e6), "MB")


def _starting(many: Side, few: Side, pairs: int) -> None:
    """From the command to `ready`, after a kill."""
    taken: dict[Side, list[float]] = {many: [], few: []}
    for _ in range(pairs):
        for side in (few, many):
            began = time.monotonic()
            with SidecarProcess(side.config) as sidecar:
                taken[side].append(time.monotonic() - began)
                sidecar.kill()
    _print(f"{many.store}: start", (median(taken[many]), median(taken[few])), "s")


async def _renewing(side: Side) -> None:
    """What a store takes of the core's renewals: the lease, then the answer, each committed and synced."""
    async with vault.opened(load_config(side.config)) as (store, sealer):
        now = time.time()
        news = [vault.row(sealer, number, now) for number in range(side.grants)]
        renewed, until = 0, time.monotonic() + _RENEWING

        async def renew(some: list[GrantRow]) -> None:
            nonlocal renewed
            for new in itertools.cycle(some):
                if time.monotonic() > until:
                    return
                old = await store.get_grant(new.key)
                assert old
                again = replace(new, version=secrets.token_urlsafe(16))
                assert await store.acquire_lease(
                    old.key, version=old.version, unanswered=0, owner="bench", seconds=60
                )
                assert await store.put_grant(again, replaces=old.version, owner="bench")
                renewed += 1

        await asyncio.gather(*(renew(news[start::_AT_ONCE]) for start in range(min(_AT_ONCE, side.grants))))
    print(f"{side.store}: {renewed / _RENEWING:,.0f} renewals stored a second, {_AT_ONCE} at once")


def _latency(found: Comparison, which: str) -> tuple[float, float]:
    return getattr(found.subject, which) / 1000, getattr(found.base, which) / 1000


def _memory(process: Server) -> int:
    """Resident, in bytes."""
    [line] = (
        line
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
        if line.startswith("VmRSS:")
    )
    return int(line.split()[1]) * 1024


def _print(what: str, figures: tuple[float, float], unit: str) -> None:
    many, few = figures
    verdict = "met" if many / few <= AIM else "missed"
    print(f"{what}: {many:.2f} {unit} against {few:.2f} {unit}: {many / few:.2f}, aim {AIM} {verdict}")


if __name__ == "__main__":
    main()
