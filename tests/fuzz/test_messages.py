"""Every method with whatever can be put into a message, with bytes that are none, and any metadata.

TOKENVAULT_FUZZ_EXAMPLES is how many calls are made in all.
"""

import asyncio
import os
import resource
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import pytest
import uvloop
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.messages import CHANGES, METADATA, Change, garbled, messages
from tests.fuzz.target import CALLERS, METHODS, Metadata, Target, target

EXAMPLES: Final = int(os.environ.get("TOKENVAULT_FUZZ_EXAMPLES", "640"))
EACH: Final = -(-EXAMPLES // len(METHODS))
GROWTH: Final = 64 << 20
"""Bytes the process may grow by once it is warm: hypothesis too remembers what it tried."""

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

pytestmark = pytest.mark.timeout(60 + EXAMPLES // 20)


@dataclass(frozen=True)
class Attempt:
    """One call. `live`: with the state and code, or the token version, that are good just now."""

    caller: str
    messages: list[Message]
    changes: tuple[Change, ...]
    metadata: Metadata
    live: bool
    bearer: bool


def attempts(method: MethodDescriptor) -> st.SearchStrategy[Attempt]:
    return st.builds(
        Attempt,
        caller=st.sampled_from(CALLERS),
        messages=st.lists(
            messages(method.input_type), min_size=1, max_size=3 if method.client_streaming else 1
        ),
        changes=CHANGES,
        metadata=METADATA,
        live=st.booleans(),
        bearer=st.sampled_from((True, True, True, False)),
    )


async def make(target: Target, method: MethodDescriptor, attempt: Attempt) -> tuple[grpc.StatusCode, str]:
    """Make the call that the attempt describes."""
    fields = method.input_type.fields_by_name
    for message in attempt.messages if attempt.live else ():
        if "code" in fields:
            came_back = await target.login()
            assert came_back.code is not None
            good = {"state": came_back.state.reveal(), "code": came_back.code.reveal()}
            message.MergeFrom(type(message)(iss=came_back.iss, **good))
            message.ClearField("error")
        elif "rejected_token_version" in fields:
            message.MergeFrom(type(message)(rejected_token_version=await target.version()))
    shown = [("authorization", target.bearer())] if attempt.bearer else []
    return await target.send(
        method,
        [garbled(message.SerializeToString(), attempt.changes) for message in attempt.messages],
        caller=attempt.caller,
        metadata=[*shown, *attempt.metadata],
    )


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.fixture(scope="module")
def fuzzed(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    running = target(tmp_path_factory.mktemp("target"))
    yield runner.run(running.__aenter__())
    runner.run(running.__aexit__(None, None, None))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_whatever_is_asked_is_answered(
    method: MethodDescriptor, runner: asyncio.Runner, fuzzed: Target
) -> None:
    """Never INTERNAL or UNKNOWN, never later than the deadline; and nothing is left of it in memory."""
    served = grpc.StatusCode.UNIMPLEMENTED if method.full_name == UNSERVED else grpc.StatusCode.OK
    memory = Memory()
    seen = Counter[grpc.StatusCode]()

    @settings(max_examples=EACH, deadline=None, suppress_health_check=list(HealthCheck))
    @given(attempts(method))
    def answered(attempt: Attempt) -> None:
        code, text = runner.run(make(fuzzed, method, attempt))
        assert code in (REFUSALS | {served}), f"{code.name}: {text}"
        seen[code] += 1
        memory.look()

    answered()
    print(f"{method.full_name}: {dict(seen)}, {memory.growth >> 10} KiB")
    assert seen[served], seen
    assert memory.growth < GROWTH


class Memory:
    """What the process has grown by, after the first fifth of what is done here."""

    def __init__(self) -> None:
        self._looks = 0
        self._warm = 0
        self.growth = 0

    def look(self) -> None:
        self._looks += 1
        if self._looks % 50 == 0:
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
            if self._looks <= EACH // 5:
                self._warm = resident
            elif self._warm:
                self.growth = resident - self._warm
