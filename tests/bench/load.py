"""The load, a process of its own: `python -m tests.bench.load FOLDER GRANTS`.

Reads rounds from stdin, one JSON object a line, and answers each with what it
saw. Requests are made beforehand and answers not parsed, so that most of the
machine is left to the server.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import uvloop

from tests.bench.vault import TOKEN_BYTES, request

CALLERS = 16
CONNECTIONS = 4
_DEADLINE = 10.0


@dataclass(frozen=True)
class Round:
    """Call this method at this address for so many seconds, on so many connections, which are kept.

    `rate`: calls a second, all callers together. None: each caller calls
    again as soon as it has its answer. `grants`: the first so many are asked
    for; None: all.
    """

    address: str
    method: str
    seconds: float
    rate: float | None = None
    grants: int | None = None
    connections: int = CONNECTIONS


@dataclass(frozen=True)
class Seen:
    """What came of it. Latencies in seconds, from before a call until its answer is there."""

    calls: int
    seconds: float
    p50: float
    p99: float
    answer_bytes: int


class Load:
    """Callers that have one call under way each, on a few connections that are kept."""

    def __init__(self, folder: Path, grants: int) -> None:
        self._credentials = grpc.ssl_channel_credentials(
            *((folder / name).read_bytes() for name in ("ca.pem", "bot.key.pem", "bot.pem"))
        )
        self._requests = [request(number) for number in range(grants)]
        self._channels: dict[tuple[str, int], list[grpc.aio.Channel]] = {}

    async def run(self, wanted: Round) -> Seen:
        """One round. Raises AioRpcError for the first call that fails."""
        channels = self._to(wanted.address, wanted.connections)
        interval = CALLERS / wanted.rate if wanted.rate else 0.0
        requests = self._requests[: wanted.grants]
        latencies: list[float] = []
        started = time.perf_counter()

        async def caller(number: int) -> int:
            call: Any = channels[number % wanted.connections].unary_unary(wanted.method)  # untyped as bytes
            due = started + interval * number / CALLERS
            size = 0
            while True:
                await asyncio.sleep(max(due - time.perf_counter(), 0.0))
                before = time.perf_counter()
                if before >= started + wanted.seconds:
                    return size
                answer = await call(random.choice(requests), timeout=_DEADLINE)
                latencies.append(time.perf_counter() - before)
                size = len(answer)
                assert size >= TOKEN_BYTES
                due += interval

        sizes = await asyncio.gather(*map(caller, range(CALLERS)))
        seconds = time.perf_counter() - started
        latencies.sort()
        return Seen(
            calls=len(latencies),
            seconds=seconds,
            p50=percentile(latencies, 50),
            p99=percentile(latencies, 99),
            answer_bytes=max(sizes),
        )

    async def close(self) -> None:
        for channels in self._channels.values():
            for channel in channels:
                await channel.close()

    def _to(self, address: str, count: int) -> list[grpc.aio.Channel]:
        if (address, count) not in self._channels:
            own = [("grpc.use_local_subchannel_pool", 1)]
            self._channels[address, count] = [
                grpc.aio.secure_channel(address, self._credentials, own) for _ in range(count)
            ]
        return self._channels[address, count]


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The value that so many percent are not above."""
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]


async def main(folder: Path, grants: int) -> None:
    """Until stdin ends."""
    load = Load(folder, grants)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(asdict(await load.run(Round(**json.loads(line))))), flush=True)
    await load.close()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), int(sys.argv[2])))
