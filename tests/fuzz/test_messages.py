"""Every method with whatever can be put into a message, with bytes that are none, and any metadata."""

import asyncio
from collections import Counter
from typing import Final

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from hypothesis import example, given

from tests.fuzz.attempts import Attempt, attempts, make, plain
from tests.fuzz.effort import fuzzing, marks
from tests.fuzz.target import METHODS, Target

REFUSALS: Final = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""What a call may end with besides OK, and in time, where nothing fails but what is asked."""

UNSERVED: Final = "grpc.health.v1.Health.List"
"""In the proto, but not in grpcio's servicer."""

pytestmark = marks


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_whatever_is_asked_is_answered(
    method: MethodDescriptor, runner: asyncio.Runner, fuzzed: Target
) -> None:
    """Never INTERNAL or UNKNOWN, and never later than the deadline."""
    served = grpc.StatusCode.UNIMPLEMENTED if method.full_name == UNSERVED else grpc.StatusCode.OK
    seen = Counter[grpc.StatusCode]()

    @fuzzing
    @given(attempts(method))
    @example(plain(method))
    def answered(attempt: Attempt) -> None:
        code, text = runner.run(make(fuzzed, method, attempt))
        assert code in (REFUSALS | {served}), f"{code.name}: {text}"
        seen[code] += 1

    answered()
    assert seen[served], seen
