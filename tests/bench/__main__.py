"""What a call costs the server, against a server on the same stack that does nothing."""

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from tests.bench import echo, renewals, report, vault
from tests.bench.load import CALLERS, CONNECTIONS, Round
from tests.bench.measure import Comparison, Plan, Subject, compare
from tests.bench.processes import Failed, load, server
from tokenvault_sidecar.config import load_config

GET_TOKEN = "/tokenvault.v1.TokenVault/GetToken"
AIM = 1.25
# Flat out, the cheaper server is called more often, and many calls at once cost less each. At the same
# rate both have the same load.
PLANS = {"get_token": 1000.0, "get_token_flat_out": None}
# What a table of the configuration costs GetToken: with it against without.
OPTIONS = {
    "audit": '[audit]\npath = "audit.jsonl"\n',
    "ops": '[ops]\nlisten = "127.0.0.1:0"\n',
}
OPTION_AIM = 1.05
# Two workers against one: of the calls per CPU-second no less than 0.95. The rate of one, and how many times
# that two have. With fewer calls at once each costs more, whoever serves them: what two cost that are given
# what one could do is seen as well. Each caller has a connection of its own, lest most be one worker's.
WORKERS = {"workers": (500.0, 2), "workers_same_rate": (1000.0, 1), "workers_flat_out": (None, 1)}
WORKERS_AIM = 1 / 0.95
_BYTES_PER_GRANT = 10_000


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--grants", type=int, default=100_000, help="grants stored (%(default)s)")
    parser.add_argument("--rounds", type=int, default=12, help="rounds of each side (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="a round takes (%(default)s)")
    parser.add_argument("--only", choices=("get_token", "renewals"), help="measure nothing else")
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"), help="(%(default)s)")
    options = parser.parse_args()
    plans = {name: Plan(options.rounds, options.seconds, rate) for name, rate in PLANS.items()}
    with tempfile.TemporaryDirectory(prefix="tokenvault-bench-", dir=_place(options.grants)) as folder:
        try:
            found = (
                {} if options.only == "renewals" else get_token(Path(folder) / "vault", options.grants, plans)
            )
            renewed = None if options.only == "get_token" else _renewals(options.rounds, options.seconds)
        except Failed as problem:
            sys.exit(f"bench: {problem}")
    for name, comparison in found.items():
        print(f"\n{report.table(_heading(name, comparison), comparison)}")
    if renewed:
        print(f"\n{renewals.tables(renewed)}")
    report.write(
        options.output,
        found,
        renewed,
        {
            "grants": options.grants,
            "token_bytes": vault.TOKEN_BYTES,
            "callers": CALLERS,
            "connections": CONNECTIONS,
        },
    )
    print(f"\nwritten to {options.output}")


def get_token(folder: Path, grants: int, plans: Mapping[str, Plan]) -> dict[str, Comparison]:
    """GetToken of fresh tokens, of grants taken at random, against an empty echo; and with options on."""
    say = progress()
    path = vault.configure(folder)
    say(f"storing {grants:,} grants with tokens of {vault.TOKEN_BYTES} bytes")
    asyncio.run(vault.fill(load_config(path), grants))
    with (
        load(folder, grants) as callers,
        server("tokenvault_sidecar", "serve", "--config", str(path)) as ours,
    ):
        size = callers.run(Round(ours.address, GET_TOKEN, 0.1)).answer_bytes
        with server("tests.bench.echo", str(path), str(size)) as theirs:
            found = {}
            for name, plan in plans.items():
                say(f"{_title(plan)}: {plan.rounds} rounds of {plan.seconds:g} s each, by turns")
                found[name] = compare(
                    Subject("GetToken", ours, GET_TOKEN),
                    Subject("echo", theirs, echo.METHOD),
                    callers,
                    plan,
                    aim=AIM,
                    progress=lambda number, ratio: say(f"  round {number:>2}: {ratio:.2f}"),
                )
        for name, table in OPTIONS.items():
            option = path.with_name(f"with-{name}.toml")
            option.write_text(f"{path.read_text()}\n{table}")
            plan = plans["get_token"]
            say(f"with [{name}] and without: {plan.rounds} rounds of {plan.seconds:g} s each, by turns")
            # On the same store: it is only read.
            with server("tokenvault_sidecar", "serve", "--config", str(option)) as theirs:
                found[name] = compare(
                    Subject(f"[{name}]", theirs, GET_TOKEN),
                    Subject("without", ours, GET_TOKEN),
                    callers,
                    plan,
                    aim=OPTION_AIM,
                    progress=lambda number, ratio: say(f"  round {number:>2}: {ratio:.2f}"),
                )
        two = path.with_name("with-two-workers.toml")
        two.write_text(path.read_text().replace("[server]\n", "[server]\nworkers = 2\n"))
        with server("tokenvault_sidecar", "serve", "--config", str(two)) as theirs:
            for name, (rate, times) in WORKERS.items():
                plan = replace(plans["get_token"], rate=rate, connections=CALLERS)
                say(f"two workers and one: {plan.rounds} rounds of {plan.seconds:g} s each, by turns")
                found[name] = compare(
                    Subject("two", theirs, GET_TOKEN, workers=times),
                    Subject("one", ours, GET_TOKEN),
                    callers,
                    plan,
                    aim=WORKERS_AIM,
                    progress=lambda number, ratio: say(f"  round {number:>2}: {ratio:.2f}"),
                )
        return found


def _renewals(rounds: int, seconds: float) -> renewals.Found:
    """On the disk: what is committed there is synced."""
    plan = renewals.Plan(
        read_pairs=max(rounds // 3, 1),
        read_seconds=3 * seconds,
        renew_pairs=max(rounds // 2, 1),
        renewals=round(400 * seconds),
    )
    with tempfile.TemporaryDirectory(prefix="tokenvault-bench-") as folder:
        return renewals.measure(Path(folder) / "vault", plan, progress())


def _place(grants: int) -> Path | None:
    """Memory where it is large enough, None for the usual place: what is measured is not the disk."""
    memory = Path("/dev/shm")
    enough = memory.is_dir() and shutil.disk_usage(memory).free > grants * _BYTES_PER_GRANT
    return memory if enough else None


def _heading(name: str, comparison: Comparison) -> str:
    if name in OPTIONS:
        return f"With [{name}] against without"
    title = _title(comparison.plan)
    if name not in WORKERS:
        return title
    _, times = WORKERS[name]
    return f"Two workers against one{' for each worker' if times > 1 else ''}: {title}"


def _title(plan: Plan) -> str:
    pace = f"{plan.rate:,.0f} calls a second" if plan.rate else "As fast as it goes"
    return f"{pace}, {CALLERS} callers on {plan.connections} connections"


def progress() -> Callable[[str], None]:
    """Say what goes on, and when."""
    started = time.monotonic()
    return lambda what: print(f"{time.monotonic() - started:5.1f} s  {what}", flush=True)


if __name__ == "__main__":
    main()
