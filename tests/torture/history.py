"""Whether the reads of one grant fit one order of its token sets: linearizable, by token version.

The authorization server numbers token sets as it issues them, so a grant is a
register that only grows. Its reads, by however many sidecars, fit one order
exactly if none that began after another had ended saw an older set.
"""

from bisect import bisect_left
from dataclasses import dataclass, field


@dataclass(slots=True)
class History:
    """To be told of the reads in the order in which they ended."""

    _ends: list[float] = field(default_factory=list)
    _newest: list[int] = field(default_factory=list)
    """What the newest set was that had been read by each of these times."""

    def read(self, began: float, ended: float, number: int) -> float | None:
        """How many seconds before it began a newer set had been read; None: it fits."""
        before = bisect_left(self._ends, began)  # the reads that had ended by then
        stale = None
        if before and self._newest[before - 1] > number:
            first = bisect_left(self._newest, number + 1)
            stale = began - self._ends[first]
        if not self._newest or number > self._newest[-1]:
            self._ends.append(ended)
            self._newest.append(number)
        return stale
