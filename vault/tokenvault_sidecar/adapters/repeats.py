"""Lines that come over and over: the first few are logged, and of the rest how many they were."""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

import structlog
from structlog.typing import EventDict

FIRST: Final = 5
"""Lines alike that are logged within a window; the others are counted."""

WINDOW: Final = 10.0
"""Seconds."""

_ALIKE: Final = ("event", "level", "brand", "caller", "rpc", "outcome", "reason", "task", "what", "method")
"""Lines that agree in these are alike, whatever else is in them."""

_EACH: Final = frozenset({"reloaded", "reload_refused", "restart_needed"})
"""Answers to what an operator did, who waits for them."""

_MOST: Final = 1000
"""Windows at once; further lines are alike if their event is. Callers may name brands that there are not."""

_SUPPRESSED: Final = "suppressed"


@dataclass(slots=True)
class _Window:
    logged: int = 0
    suppressed: int = 0


class Repeats:
    """A structlog processor. Needs the loop to end its windows: outside of it, it lets all lines pass."""

    def __init__(self) -> None:
        self._windows: dict[tuple[Hashable, ...], _Window] = {}

    def __call__(self, _: object, method: str, line: EventDict) -> EventDict:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return line
        if _SUPPRESSED in line or line.get("event") in _EACH:
            return line
        key = tuple(str(line[name]) if name in line else None for name in _ALIKE)
        if key not in self._windows and len(self._windows) >= _MOST:
            key = (key[0], key[1], *(None for _ in _ALIKE[2:]))
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = _Window()
            loop.call_later(WINDOW, self._end, key, method)
        if window.logged < FIRST:
            window.logged += 1
            return line
        window.suppressed += 1
        raise structlog.DropEvent

    def _end(self, key: tuple[Hashable, ...], method: str) -> None:
        window = self._windows.pop(key)
        if window.suppressed:
            line = {name: value for name, value in zip(_ALIKE, key, strict=True) if value is not None}
            event, _ = line.pop("event"), line.pop("level")
            getattr(structlog.get_logger(), method)(event, **line, suppressed=window.suppressed)
