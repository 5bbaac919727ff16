"""Nothing is left in memory of what was asked."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest
from google.protobuf.descriptor import MethodDescriptor
from hypothesis import given, settings

from tests.fuzz.attempts import Attempt, attempts, make
from tests.fuzz.effort import CALLS, EACH, fuzzing, marks
from tests.fuzz.target import METHODS, Target

STATM: Final = Path("/proc/self/statm")
KEPT: Final = min(EACH // 4, 100)
ROUNDS: Final = 2 + max(2, CALLS // (10 * KEPT * len(METHODS)))
GROWTH: Final = 8 << 20
"""Bytes; the allocator's, not ours."""

pytestmark = [*marks, pytest.mark.skipif(not STATM.exists(), reason="reads /proc")]


def test_memory_is_flat(runner: asyncio.Runner, fuzzed: Target) -> None:
    """The same calls over and over, as hypothesis too remembers what it tried."""
    calls = [(method, attempt) for method in METHODS for attempt in examples(method)]

    async def play() -> None:
        for method, attempt in calls:
            await make(fuzzed, method, attempt)
        await fuzzed.tidy()

    used = []
    for _ in range(ROUNDS):
        runner.run(play())
        used.append(int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    assert used[-1] - used[1] < GROWTH, used


def examples(method: MethodDescriptor) -> Sequence[Attempt]:
    found: list[Attempt] = []

    @settings(fuzzing, max_examples=KEPT, database=None)
    @given(attempts(method))
    def collect(attempt: Attempt) -> None:
        found.append(attempt)

    collect()
    return found
