"""The wall clock, but for its jumps; and time since boot, which has none."""

import time
from collections.abc import Callable
from pathlib import Path

from tokenvault_sidecar.core.ports import Events

FOLLOWED = 5.0
"""Seconds the wall clock may move by itself between two looks and be followed at once: slewing."""

BELIEVED_AFTER = 900.0
"""Seconds a larger jump must last before it is believed: a wrong clock must end no session."""


def boot_time() -> float:
    """Seconds on a clock nobody sets; where the system can, it goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class SteadyClock:
    """Seconds since the epoch, as the wall clock says, but a jump is believed only once it has lasted.

    Sessions end and tokens expire by this clock: a wall clock set an hour
    ahead by mistake would otherwise purge every grant before it is set right.
    """

    def __init__(
        self,
        events: Events,
        *,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = boot_time,
    ) -> None:
        self._events = events
        self._wall = wall
        self._steady = steady
        self._offset = wall() - steady()
        self._jumped_at: float | None = None

    def __call__(self) -> float:
        steady = self._steady()
        drift = self._wall() - steady - self._offset
        if abs(drift) <= FOLLOWED:
            self._jumped_at = None
            self._offset += drift
        elif self._jumped_at is None:
            self._jumped_at = steady
            self._events("clock_jumped", seconds=drift)
        elif steady - self._jumped_at >= BELIEVED_AFTER:
            self._jumped_at = None
            self._offset += drift
            self._events("clock_followed", seconds=drift)
        return steady + self._offset


def read_boot_id() -> str:
    """What names this boot of the machine; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
