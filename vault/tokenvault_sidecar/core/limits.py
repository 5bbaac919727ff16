"""How much one caller may ask, so that it slows no other: calls a second, and calls at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tokenvault_sidecar.core.errors import RateLimited


@dataclass(frozen=True, slots=True)
class Limits:
    """`rate` in calls a second, saved up to `burst` calls; `concurrency` in calls under way."""

    rate: float = 5000.0
    burst: int = 10000
    concurrency: int = 2000


class Meter:
    """One caller's account: a bucket that fills by the rate and is emptied by calls."""

    __slots__ = ("_filled_at", "_left", "_limits", "_name", "_under_way")

    def __init__(self, name: str, limits: Limits, *, now: float) -> None:
        self._name = name
        self._limits = limits
        self._left = float(limits.burst)
        self._filled_at = now
        self._under_way = 0

    def enter(self, now: float) -> None:
        """Account for a call that begins; `leave` must follow. Raises RateLimited, with nothing to leave."""
        limits = self._limits
        self._left = min(self._left + max(now - self._filled_at, 0.0) * limits.rate, float(limits.burst))
        self._filled_at = now
        if self._under_way >= limits.concurrency:
            raise RateLimited(
                f"caller {self._name!r} has {limits.concurrency} calls under way, its limit: "
                "wait for some to end"
            )
        if self._left < 1.0:
            raise RateLimited(
                f"caller {self._name!r} is over its {limits.rate:g} calls a second: call less often",
                retry_after=(1.0 - self._left) / limits.rate,
            )
        self._left -= 1.0
        self._under_way += 1

    def leave(self) -> None:
        """Account for a call that has ended."""
        self._under_way -= 1

    @contextmanager
    def call(self, now: float) -> Iterator[None]:
        """`enter` and `leave`."""
        self.enter(now)
        try:
            yield
        finally:
            self.leave()
