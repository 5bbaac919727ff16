"""A value fetched from elsewhere and kept."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import structlog

from tokenvault_sidecar.core.errors import ServerUnavailable, VaultError

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class Cached(Generic[T]):
    """One fetch at a time, a copy for `lifetime` seconds, and the old copy while fetching fails.

    `fetch` raises VaultError where it fails, and ends by itself. It runs in a
    task of its own: a caller that goes away does not cancel it. After a
    failure the old copy serves for `pause` seconds before the next try. For
    `grace` seconds more it serves at once, and is fetched anew meanwhile:
    nobody who asks often enough ever waits.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[T]],
        *,
        name: str,
        lifetime: float,
        pause: float,
        grace: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._name = name
        self._lifetime = lifetime
        self._pause = pause
        self._grace = grace
        self._clock = clock
        self._flight: asyncio.Task[T] | None = None
        self._copies: list[T] = []
        self._fresh_until = 0.0
        self._failure: VaultError | None = None
        self._retry_at = 0.0
        self._refetch_at = 0.0

    async def get(self) -> T:
        """The value. Raises what `fetch` raises where there never was one."""
        now = self._clock()
        if self._copies:
            good_until = max(self._fresh_until, self._retry_at if self._failure else 0.0)
            if good_until <= now < good_until + self._grace:
                self._begin()
            if now < good_until + self._grace:
                return self._copies[0]
        try:
            return await self._join()
        except VaultError:
            if not self._copies:
                raise
            return self._copies[0]

    async def refetched(self) -> T:
        """The value, fetched anew unless that was asked for less than `pause` seconds ago.

        Raises what `fetch` raises: the copy at hand is not what the caller needs.
        """
        now = self._clock()
        if now >= self._refetch_at:
            self._refetch_at = now + self._pause
            return await self._join()
        if not self._copies or self._under_way:
            return await self._join()
        if self._failure:
            raise self._failure.with_traceback(None)
        return self._copies[0]

    async def aclose(self) -> None:
        """Stop a fetch under way."""
        if self._flight and self._under_way:
            self._flight.cancel()
            await asyncio.wait([self._flight])

    @property
    def _under_way(self) -> bool:
        return self._flight is not None and not self._flight.done()

    def _begin(self) -> asyncio.Task[T]:
        """The fetch under way, or a new one."""
        if self._flight is None or self._flight.done():
            self._flight = asyncio.create_task(self._run(), name=f"fetch {self._name}")
            self._flight.add_done_callback(_look_at)
        return self._flight

    async def _join(self) -> T:
        flight = self._begin()
        await asyncio.wait([flight])
        if flight.cancelled():
            raise ServerUnavailable(f"the {self._name} could not be fetched: the sidecar is stopping")
        if failure := flight.exception():
            raise failure.with_traceback(None)
        return flight.result()

    async def _run(self) -> T:
        try:
            value = await self._fetch()
        except VaultError as failure:
            self._failure = failure
            self._retry_at = self._clock() + self._pause
            kept = bool(self._copies)
            _log.warning("fetch_failed", what=self._name, problem=failure.message, old_copy_serves=kept)
            raise
        self._failure = None
        self._copies = [value]
        self._fresh_until = self._clock() + self._lifetime
        return value


def _look_at(flight: asyncio.Task[T]) -> None:
    """Those who waited may all have gone: the failure is logged already, asyncio need not say it again."""
    if not flight.cancelled():
        flight.exception()
