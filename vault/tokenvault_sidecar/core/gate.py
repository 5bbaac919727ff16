"""What stands before each authorization server: a cap on requests at once, and a circuit breaker.

One brand's outage delays no other brand: each authorization server has a gate
of its own, and behind an open circuit nobody waits and nothing is written.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext

from tokenvault_sidecar.core.errors import InvalidGrant, ServerMisconfigured, ServerUnavailable
from tokenvault_sidecar.core.lifecycle import RETRY_AFTER_LAST
from tokenvault_sidecar.core.ports import Clock, Events

SLOTS = 32
"""Requests to one authorization server at once."""

BACKGROUND_SLOTS = 8
"""Of these, the most that work nobody waits for may take."""

OPENS_AFTER = 5
"""Failures in a row that open the circuit."""

OPEN_FIRST, OPEN_LAST = 1.0, 60.0
"""Seconds it stays open, doubled after each probe that fails, up to the last."""


class Gate:
    """One authorization server's gate. `jitter` is in [0, 1)."""

    def __init__(self, brand: str, *, clock: Clock, events: Events, jitter: Callable[[], float]) -> None:
        self._brand = brand
        self._clock = clock
        self._events = events
        self._jitter = jitter
        self._slots = asyncio.Semaphore(SLOTS)
        self._background = asyncio.Semaphore(BACKGROUND_SLOTS)
        self._failures = 0
        self._open_until: float | None = None
        self._probing = False
        self._last: ServerUnavailable | ServerMisconfigured | None = None

    @property
    def is_open(self) -> bool:
        """Whether the circuit is open: a request now would be refused."""
        if self._open_until is None:
            return False
        wait = self._open_until - self._clock()
        return self._probing or 0 < wait <= RETRY_AFTER_LAST  # further away is a clock that jumped

    @property
    def tripped(self) -> bool:
        """Whether failures have opened the circuit, and nothing has closed it since."""
        return self._open_until is not None

    def check(self) -> None:
        """Raises the last failure again, without a request, while the circuit is open."""
        if self.is_open and self._last is not None:
            raise self._refusal(self._last)

    @asynccontextmanager
    async def slot(self, *, background: bool = False) -> AsyncIterator[None]:
        """A place among the requests under way; waits for one, in order. Raises as `check`.

        After its time an open circuit lets one request through, as a probe.
        """
        self.check()
        async with self._background if background else nullcontext(), self._slots:
            self.check()
            probe = self._open_until is not None
            self._probing = self._probing or probe
            try:
                yield
            finally:
                if probe:
                    self._probing = False

    @contextmanager
    def watch(self, *, proves: bool = True) -> Iterator[None]:
        """Around a request: failures open the circuit, success closes it where it `proves` anything."""
        try:
            yield
        except InvalidGrant:
            self._answered()
            raise
        except (ServerUnavailable, ServerMisconfigured) as error:
            self._failed(error)
            raise
        if proves:
            self._answered()

    @asynccontextmanager
    async def request(self, *, background: bool = False) -> AsyncIterator[None]:
        """A slot, watched."""
        async with self.slot(background=background):
            with self.watch():
                yield

    def _answered(self) -> None:
        if self._open_until is not None:
            self._events("circuit", brand=self._brand, outcome="closed")
        self._failures, self._open_until, self._last = 0, None, None

    def _failed(self, error: ServerUnavailable | ServerMisconfigured) -> None:
        self._failures += 1
        self._last = error
        if self._failures < OPENS_AFTER:
            return
        seconds = min(OPEN_FIRST * 2.0 ** min(self._failures - OPENS_AFTER, 10), OPEN_LAST)
        seconds = max(seconds * (0.5 + self._jitter() / 2), min(error.retry_after or 0.0, OPEN_LAST))
        if self._open_until is None:
            self._events("circuit", brand=self._brand, outcome="opened", reason=error.reason.value)
        self._open_until = self._clock() + seconds

    def _refusal(
        self, last: ServerUnavailable | ServerMisconfigured
    ) -> ServerUnavailable | ServerMisconfigured:
        wait = max((self._open_until or 0.0) - self._clock(), 0.1)
        if isinstance(last, ServerMisconfigured):
            return ServerMisconfigured(last.message)
        return ServerUnavailable(
            f"the authorization server of brand {self._brand!r} has failed {self._failures} times in a row "
            "and is not asked for a while: ask again",
            retry_after=wait,
        )
