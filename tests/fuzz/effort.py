"""How much is fuzzed."""

import os
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

from tests.fuzz.target import METHODS

CALLS: Final = int(os.environ.get("TOKENVAULT_FUZZ_CALLS", "400"))
"""Calls to make in all, of each method as many; by hand-made HTTP/2 as many as of one method."""

EACH: Final = -(-CALLS // len(METHODS))

fuzzing: Final = settings(max_examples=EACH, deadline=None, suppress_health_check=list(HealthCheck))
marks: Final = [
    pytest.mark.timeout(60 + CALLS // 20),
    pytest.mark.filterwarnings("ignore:Generating overly large repr"),  # of what failed
]
