"""Steps of traces: the port, and the step that is under way.

A call's step begins where the call is let in; what asks an authorization
server on its behalf, a renewal that outlives it too, finds it here.
"""

from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Final, Protocol


class RequestSpan(Protocol):
    """One request to an authorization server."""

    @property
    def headers(self) -> Mapping[str, str]:
        """What carries the trace on (W3C Trace Context)."""

    def end(self, status: int | None, problem: str | None) -> None:
        """It ended with this status, or else with this problem."""


class CallSpan(Protocol):
    """One call of the vault."""

    def request(self, method: str, url: str, brand: str | None) -> RequestSpan:
        """Begin a request within it. Of the URL, what is from the query on is not told."""

    def end(self, *, caller: str | None, brand: str | None, reason: str) -> None:
        """It ended so. `brand` may be whatever a caller wrote there."""


BeginCall = Callable[[str, Iterable[tuple[str, str | bytes]]], CallSpan]
"""Begins a call's step, by its name and the metadata it came with. Must not raise."""

current_span: Final[ContextVar[CallSpan | None]] = ContextVar("current_span", default=None)
