"""`make torture`: kill sidecars while they renew, and count what is lost."""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.torture.report import table
from tests.torture.run import Plan, torture


def main() -> int:
    """Torture as told, and print the table; 1 where anything happened that must not."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how often (%(default)s)")
    parser.add_argument("--grants", type=int, default=40, help="consumers' grants (%(default)s)")
    parser.add_argument("--sidecars", type=int, default=1, help="processes on the one store (%(default)s)")
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite", help="(%(default)s)")
    parser.add_argument(
        "--restarts", type=int, default=0, help="of the database meanwhile, with PostgreSQL (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=None, help="of the kills (random)")
    wanted = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if wanted.seed is None else wanted.seed
    plan = Plan(
        kills=wanted.kills,
        grants=wanted.grants,
        sidecars=wanted.sidecars,
        seed=seed,
        store=wanted.store,
        restarts=wanted.restarts,
    )
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {what}", flush=True)

    say(f"{plan.kills} kills of {plan.sidecars} sidecar(s), {plan.grants} grants, seed {plan.seed}")
    with tempfile.TemporaryDirectory(prefix="tokenvault-torture-") as folder:
        verdict = asyncio.run(torture(plan, Path(folder), say))
        print(f"\n{table(verdict)}")
    return 1 if verdict.judge.wrongs else 0


if __name__ == "__main__":
    sys.exit(main())
