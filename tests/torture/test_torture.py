"""The kill test in short; `make torture` is the long one."""

import random
from pathlib import Path
from typing import Literal

import pytest

from tests.torture.report import table
from tests.torture.run import Plan, torture


@pytest.mark.parametrize(
    ("store", "sidecars", "kills", "restarts"),
    [("sqlite", 1, 10, 0), ("sqlite", 3, 6, 0), ("postgres", 4, 6, 2)],
)
async def test_no_kill_loses_a_grant(
    tmp_path: Path, store: Literal["sqlite", "postgres"], sidecars: int, kills: int, restarts: int
) -> None:
    seed = random.SystemRandom().randrange(1_000_000)
    plan = Plan(kills, grants=12, sidecars=sidecars, seed=seed, store=store, restarts=restarts)
    verdict = await torture(plan, tmp_path, print)
    print(table(verdict))
    assert not verdict.judge.wrongs
    assert verdict.judge.counts["redemptions"]
    assert verdict.judge.counts["tokens served"]
