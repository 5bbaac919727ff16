"""Calls that gRPC's clients would not make: headers, frames of messages and timeouts of any kind."""

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import h2.exceptions
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.effort import fuzzing, marks
from tests.fuzz.http2 import Answer, Headers, Http2, call_headers, message, tls_context
from tests.fuzz.messages import CHANGES, garbled, messages
from tests.fuzz.target import METHODS, Target

TRANSPORT: Final = re.compile(
    "Error parsing '.*' metadata|Duplicate '.*' header received|Illegal header key|"
    "Metadata keys cannot be zero length|Compression bit set but no encoding configured|Decompression failed",
    re.DOTALL,
)
"""gRPC says INTERNAL itself to who does not keep to its protocol; its library, not what it is told by us."""

ANSWERS: Final = {
    None,  # a reset of the stream, or of the connection
    *(
        code.value[0]
        for code in grpc.StatusCode
        if code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS)
    ),
}

PATHS: Final = tuple(f"/{method.containing_service.full_name}/{method.name}" for method in METHODS)
TIMEOUTS: Final = (
    b"",
    b"0S",
    b"-1S",
    b"1x",
    b"1",
    b"1n",
    b"1.5S",
    b" 1S",
    b"S",
    b"99999999H",
    b"9" * 40,
    b"\xff",
)
NAMES: Final = (
    b"te",
    b"content-type",
    b"grpc-encoding",
    b"grpc-accept-encoding",
    b"grpc-timeout",
    b"host",
    b"",
    b":path",
    b":authority",
    b":status",
    b":x",
    b"X-Upper",
    b"a\x00b",
    b"x-bin",
    b"grpc-status",
    b"connection",
    b"content-length",
    b"transfer-encoding",
    b"grpc-previous-rpc-attempts",
    b"lb-cost-bin",
    b"authorization",
)
VALUES: Final = (
    b"",
    b"gzip",
    b"application/grpc+json",
    b"text/html",
    b"-1",
    b"\x00",
    b"\r\n",
    b"\xff\xfe",
    b"***",
    b"A" * 5,
    b"a" * 8193,
    b"a" * 40_000,
    b"Bearer x",
)

pytestmark = marks


@dataclass(frozen=True)
class Call:
    """`end`: as `Http2.call` takes it."""

    headers: Headers
    body: bytes
    end: str


def headers() -> st.SearchStrategy[Headers]:
    path = (
        st.sampled_from(PATHS).map(str.encode)
        | st.sampled_from((b"/", b"", b"*", b"/\xff/\xff"))
        | st.binary(max_size=30)
    )
    odd = st.tuples(
        st.sampled_from(NAMES) | st.binary(max_size=10),
        st.sampled_from(VALUES) | st.sampled_from(TIMEOUTS) | st.binary(max_size=40),
    )
    usual = st.builds(
        lambda to, dropped: [
            (name, to if name == b":path" else value)
            for name, value in call_headers("")
            if name not in dropped
        ],
        path,
        st.just(()) | st.sets(st.sampled_from([name for name, _ in call_headers("")]), max_size=2),
    )
    return st.builds(lambda first, then: [*first, *then], usual, st.lists(odd, max_size=3))


def bodies() -> st.SearchStrategy[bytes]:
    sound = st.one_of([messages(method.input_type) for method in METHODS]).map(
        lambda made: message(made.SerializeToString())
    )
    framed = st.builds(
        lambda data, flag, length: message(data, flag=flag, length=length),
        st.binary(max_size=50),
        st.sampled_from((0, 0, 1, 2, 255)),
        st.sampled_from((None, None, 0, 1, 1000, 2**16, 2**16 + 1, 2**31, 2**32 - 1)),
    )
    return st.builds(garbled, st.lists(sound | framed, max_size=3).map(b"".join), CHANGES).filter(
        lambda body: len(body) < 60_000  # more does not fit into HTTP/2's first window
    )


def calls() -> st.SearchStrategy[Call]:
    begun = st.builds(lambda path: call_headers(path, timeout=b"50m"), st.sampled_from(PATHS))
    ended = st.builds(Call, headers(), bodies(), st.sampled_from(("stream", "stream", "reset")))
    return st.one_of(ended, ended, ended, st.builds(Call, begun, bodies(), st.just("never")))


def test_whatever_comes_by_http2_is_answered(runner: asyncio.Runner, fuzzed: Target, tmp_path: Path) -> None:
    context = tls_context(fuzzed.pki.ca, fuzzed.pki.bot, tmp_path)
    connections: list[Http2] = []

    async def make(call: Call) -> Answer:
        if not connections or not connections[-1].alive:
            connections.append(await Http2.connect(fuzzed.address, context))
        try:
            return await connections[-1].call(call.headers, call.body, end=call.end)
        except (ConnectionError, h2.exceptions.NoAvailableStreamIDError):
            connections[-1].alive = False
            return Answer(ended_by="hanging up")
        finally:
            if not connections[-1].alive:
                connections.pop().close()

    @fuzzing
    @given(calls())
    def answered(call: Call) -> None:
        answer = runner.run(make(call))
        if not TRANSPORT.match(answer.message):
            assert answer.grpc_status in ANSWERS, answer

    answered()
    for connection in connections:
        connection.close()
