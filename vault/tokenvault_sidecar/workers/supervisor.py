"""Starts workers, starts those again that end, and has all drain in the end.

Of the sidecar it serves the port of [ops] only, and it opens no store.
"""

import asyncio
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any, Final

import structlog

from tokenvault_sidecar.beginning import CANNOT_START, Beginning, settle, tell_ready
from tokenvault_sidecar.config import load_fixed
from tokenvault_sidecar.listening import CannotListen, HeldPort, listen, not_listening
from tokenvault_sidecar.ops.server import ops_server
from tokenvault_sidecar.workers.channel import Post
from tokenvault_sidecar.workers.overview import Overview
from tokenvault_sidecar.workers.process import WorkerProcess, in_words

FIRST_PAUSE: Final = 0.5
"""Seconds before a worker that ended is started again; doubled each time it ends soon."""

LONGEST_PAUSE: Final = 30.0

STEADY: Final = 60.0
"""Seconds after which a worker that serves does not end soon."""

APART: Final = 0.5
"""Seconds from when one worker stops to when the next does: callers that come from the one are served by it.

Else their handshakes are under way when it stops, and gRPC cancels the first calls.
"""

_OF_DRAIN: Final = 0.25
"""The most that may be of `server.drain_timeout`, for all together."""

_BEYOND_DRAIN: Final = 10.0
"""Seconds that a worker has to end, beyond `server.drain_timeout`; then it is killed."""

_log = structlog.get_logger()


def supervise(begun: Beginning) -> int:
    """Have as many workers serve as the configuration says, until SIGTERM or SIGINT; the exit status.

    SIGHUP has them reload. A second SIGTERM or SIGINT ends all processes at
    once. Raises ConfigError.
    """
    fixed = load_fixed(begun.file)
    settle()
    try:
        return asyncio.run(_Supervisor(begun, fixed).run())
    except CannotListen as error:
        sys.stderr.write(f"cannot start: {error}\n")
        return CANNOT_START


class _Place:
    """Where one worker is, or the next will be."""

    def __init__(self, number: int) -> None:
        self.number: Final = number
        self.served: Final = asyncio.Event()
        self.newest: WorkerProcess | None = None
        self.status = 0
        self.ended = ""
        self.trouble = "it is starting"

    @property
    def process(self) -> WorkerProcess | None:
        """Who is there now and serves."""
        newest = self.newest
        return newest if newest and newest.serving.is_set() and not newest.ended.done() else None


class _Supervisor:
    def __init__(self, begun: Beginning, fixed: dict[str, Any]) -> None:
        """Takes the ports. Raises CannotListen."""
        config = begun.config
        self._begun = begun
        self._fixed = fixed
        self._ports = [HeldPort(address) for address in config.server.listen]
        self._callback = _callback_socket(config.callback.listen) if config.callback else None
        self._places = [_Place(number + 1) for number in range(config.server.workers)]
        self._overview = Overview(self._places)
        self._ops = ops_server(config.ops.listen, self._overview.routes) if config.ops else None
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> int:
        """Until it is told to stop, or a worker cannot start at first; the exit status."""
        self._take_signals()
        first, *others = self._places
        # What keeps one from starting keeps all: it is said once.
        failed = await self._begin([first]) or await self._begin(others)
        if failed is not None or self._stopping.is_set():
            await self._stop()
            return self._why(failed) if failed is not None else 0
        if self._ops:
            self._ops.start()
        watching = asyncio.create_task(self._watch(), name="watch")
        addresses = [port.address for port in self._ports]
        _log.info(
            "ready",
            workers=len(self._places),
            listening=addresses,
            ops=self._ops.address if self._ops else None,
        )
        tell_ready(addresses)
        await self._stopping.wait()
        watching.cancel()
        return await self._stop()

    async def _watch(self) -> None:
        if self._ops:
            await self._overview.watch()

    async def _begin(self, places: list[_Place]) -> _Place | None:
        """Start workers there, and wait until all of them serve; one that ended instead, where one did."""
        tasks = [asyncio.create_task(self._keep(place), name=f"worker {place.number}") for place in places]
        self._tasks += tasks
        serving = asyncio.create_task(_all_served(places))
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([serving, stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        serving.cancel()
        stopping.cancel()
        if self._stopping.is_set():
            return None
        return next((place for place, task in zip(places, tasks, strict=True) if task.done()), None)

    async def _keep(self, place: _Place) -> None:
        """Have a worker there, and another when that ends, until all are to stop.

        Not another where the first of all ends before it serves.
        """
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            since = time.monotonic()
            await self._one(place)
            if self._stopping.is_set() or not place.served.is_set():
                return
            if time.monotonic() - since > STEADY:
                pause = FIRST_PAUSE
            _log.error("worker_ended", worker=place.number, by=place.ended, again_in=pause)
            place.trouble = f"it ended by {place.ended}, and is started again"
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _one(self, place: _Place) -> None:
        """One worker there, until it ends."""
        try:
            process = place.newest = await WorkerProcess.start(self._begun.file, self._post(place.number))
        except OSError as error:
            place.status, place.ended = 1, error.strerror or type(error).__name__
            return
        _log.info("worker_started", worker=place.number, pid=process.pid)
        if self._stopping.is_set():
            process.stop(after=0)
        if await process.served():
            if place.served.is_set():
                self._overview.restarted()
            place.served.set()
        place.status = await process.ended
        place.ended = in_words(place.status)
        self._overview.departed(process)

    def _post(self, number: int) -> Post:
        return Post(
            number=number,
            listen=[port.address for port in self._ports],
            callback=self._callback.fileno() if self._callback else None,
            fixed=self._fixed,
        )

    async def _stop(self) -> int:
        """Have all drain, and wait; the exit status."""
        self._stopping.set()
        self._overview.stopping = True
        if self._callback:
            self._callback.close()
        alive = [place.newest for place in self._places if place.newest and not place.newest.ended.done()]
        drain = self._begun.config.server.drain_timeout
        after = 0.0
        for process in alive:
            process.stop(after=after)
            after += min(APART, drain * _OF_DRAIN / len(alive))
        await asyncio.wait(self._tasks, timeout=after + drain + _BEYOND_DRAIN)
        for place in self._places:  # one may have started since
            if place.newest and not place.newest.ended.done():
                _log.error("worker_killed", worker=place.number, remedy="it did not end by itself")
                place.newest.kill()
        await asyncio.gather(*self._tasks)
        if self._ops:
            await self._ops.stop()
        for port in self._ports:
            port.close()
        return int(any([await process.ended for process in alive]))

    def _why(self, failed: _Place) -> int:
        """The exit status where a worker could not start. Its stderr is ours."""
        if failed is not self._places[0] or failed.status != CANNOT_START:
            sys.stderr.write(f"cannot start: worker {failed.number} ended by {failed.ended}\n")
        return failed.status if failed.status > 0 else 1

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            for name in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(name)
                signal.signal(name, signal.SIG_DFL)  # then the workers, alone, end at once
            self._stopping.set()

        def reload() -> None:
            for place in self._places:
                if place.newest:
                    place.newest.reload()

        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, stop)
        loop.add_signal_handler(signal.SIGHUP, reload)


async def _all_served(places: list[_Place]) -> None:
    for place in places:
        await place.served.wait()


def _callback_socket(address: str) -> socket.socket:
    """Listening: workers take from one queue. Raises CannotListen."""
    try:
        return listen(address)
    except OSError as error:
        raise not_listening("callback.listen", address, error) from None
