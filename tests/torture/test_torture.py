"""The kill test in short; `make torture` is the long one."""

import random
from pathlib import Path

import pytest

from tests.torture.report import table
from tests.torture.run import Plan, torture


@pytest.mark.parametrize(("sidecars", "kills"), [(1, 10), (3, 6)])
async def test_no_kill_loses_a_grant(tmp_path: Path, sidecars: int, kills: int) -> None:
    seed = random.SystemRandom().randrange(1_000_000)
    verdict = await torture(Plan(kills=kills, grants=12, sidecars=sidecars, seed=seed), tmp_path, print)
    print(table(verdict))
    assert not verdict.judge.wrongs
    assert verdict.judge.counts["redemptions"]
    assert verdict.judge.counts["tokens served"]
