"""What many grants cost: sidecars on a store with many and on one with few, by turns, as ratios."""

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench import vault
from tests.bench.__main__ import GET_TOKEN, progress
from tests.bench.measure import Comparison, Plan, Subject, compare
from tests.bench.processes import Failed, Server, load, server
from tests.running import SidecarProcess
from tokenvault_sidecar.config import load_config

AIM = 1.1
"""Of many against few: latency, memory, time to start."""
RATE = 500.0
"""Calls a second: what both sides can answer at ease, so that latency is not a queue's."""


@dataclass(frozen=True)
class Side:
    """A sidecar's configuration, and the grants in its store."""

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
    parser.add_argument("--folder", type=Path, help="where the stores are made; some 4 KB a grant")
    options = parser.parse_args()
    say = progress()
    with tempfile.TemporaryDirectory(prefix="tokenvault-bench-", dir=options.folder) as folder:
        config = vault.configure(Path(folder) / "vault")
        many, few = (_side(config, grants) for grants in (options.grants, options.few))
        for side in (many, few):
            say(f"storing {side.title} grants with tokens of {vault.TOKEN_BYTES} bytes")
            asyncio.run(vault.fill(load_config(side.config), side.grants))
        size = load_config(many.config).store.file.stat().st_size
        say(f"{size / many.grants:,.0f} bytes a grant in SQLite")
        try:
            _serving(many, few, Plan(options.rounds, options.seconds, RATE))
        except Failed as problem:
            sys.exit(f"bench-scale: {problem}")
        _starting(many, few, max(options.rounds // 3, 1))


def _side(config: Path, grants: int) -> Side:
    """Another configuration in the same folder, with a store of its own."""
    path = config.with_name(f"with-{grants}.toml")
    text = config.read_text()
    assert text.count('path = "tokenvault.db"') == 1
    path.write_text(text.replace('path = "tokenvault.db"', f'path = "with-{grants}.db"'))
    return Side(grants, path)


def _serving(many: Side, few: Side, plan: Plan) -> None:
    """GetToken of grants taken at random."""
    say = progress()
    with (
        load(many.config.parent, many.grants) as callers,
        server(*few.command) as theirs,
        server(*many.command) as ours,
    ):
        say(f"GetToken {RATE:,.0f} times a second: {plan.rounds} rounds of {plan.seconds:g} s each, by turns")
        found = compare(
            Subject(many.title, ours, GET_TOKEN, many.grants),
            Subject(few.title, theirs, GET_TOKEN, few.grants),
            callers,
            plan,
            aim=AIM,
            progress=lambda number, ratio: say(f"  round {number:>2}: CPU {ratio:.2f}"),
        )
        memory = _memory(ours), _memory(theirs)
    _print("p50", _latency(found, "p50_us"), "ms")
    _print("p99", _latency(found, "p99_us"), "ms")
    _print("memory", (memory[0] / 1e6, memory[1] / 1e6), "MB")


def _starting(many: Side, few: Side, pairs: int) -> None:
    """From the command to `ready`, after a kill."""
    taken: dict[Side, list[float]] = {many: [], few: []}
    for _ in range(pairs):
        for side in (few, many):
            began = time.monotonic()
            with SidecarProcess(side.config) as sidecar:
                taken[side].append(time.monotonic() - began)
                sidecar.kill()
    _print("start", (median(taken[many]), median(taken[few])), "s")


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
