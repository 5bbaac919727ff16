"""What is looked up when somebody scrapes: states and stocks, not events."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tokenvault_sidecar.core.ports import Stock

STOCK_FRESH: Final = 15.0
"""Seconds for which counts serve further scrapes: counting a million grants takes a while."""


@dataclass(frozen=True, slots=True)
class State:
    """How the process is doing now."""

    ready: Mapping[str, bool]
    circuits: Mapping[str, bool]
    commits: int
    commit_seconds: float
    writes: int
    queue: int
    certificate: tuple[datetime, datetime] | None


class Gauges(Collector):
    """Registered in a registry; `refresh` it before that is written out."""

    def __init__(
        self,
        registry: CollectorRegistry,
        version: str,
        state: Callable[[], State],
        count: Callable[[], Awaitable[Stock]],
    ) -> None:
        """`count` may raise: then the last stock stays.

        `shows_stock` is to be False where another process shows that of the same store.
        """
        self._version = version
        self._state = state
        self._count = count
        self._stock: Stock | None = None
        self._until = 0.0
        self._counting = asyncio.Lock()
        self.shows_stock = True
        registry.register(self)

    async def refresh(self) -> None:
        """Count the stock, where that is not fresh. Raises what `count` raises."""
        async with self._counting:
            if time.monotonic() >= self._until:
                self._until = time.monotonic() + STOCK_FRESH
                self._stock = await self._count()

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client asks."""
        yield _gauge("build_info", "The version that runs.", {(self._version,): 1}, "version")
        yield from _state(self._state())
        if self._stock is not None and self.shows_stock:
            yield from _stock(self._stock)


def _state(state: State) -> Iterator[Metric]:
    yield _gauge("ready", "Whether this check lets calls be served.", _one(state.ready), "check")
    yield _gauge(
        "circuit_open",
        "Whether the authorization server failed so often that it is asked only now and then.",
        _one(state.circuits),
        "brand",
    )
    yield CounterMetricFamily("tokenvault_store_commits", "Transactions committed.", state.commits)
    yield CounterMetricFamily(
        "tokenvault_store_commit_seconds", "Time spent in writing and committing.", state.commit_seconds
    )
    yield CounterMetricFamily("tokenvault_store_writes", "Writes that these held.", state.writes)
    yield GaugeMetricFamily("tokenvault_store_queue_length", "Writes that wait.", state.queue)
    if state.certificate is not None:
        begin, end = state.certificate
        for name, when in (("not_before", begin), ("not_after", end)):
            yield GaugeMetricFamily(
                f"tokenvault_certificate_{name}_timestamp_seconds",
                f"The server certificate's {name}.",
                when.timestamp(),
            )


def _stock(stock: Stock) -> Iterator[Metric]:
    grants = GaugeMetricFamily("tokenvault_grants", "Grants stored.", labels=("brand", "kind"))
    for place, number in stock.grants.items():
        grants.add_metric(place, number)
    yield grants
    yield _gauge(
        "renewal_next_due_timestamp_seconds",
        "When the first grant is due that the background may renew.",
        _one(stock.next_due),
        "brand",
    )
    yield GaugeMetricFamily("tokenvault_revocations_waiting", "Tokens to be revoked.", stock.revocations)
    if stock.data_key_created is not None:
        yield GaugeMetricFamily(
            "tokenvault_data_key_created_timestamp_seconds",
            "When the youngest data key was made.",
            stock.data_key_created,
        )


def _one(values: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    return {(name,): float(value) for name, value in values.items()}


def _gauge(
    name: str, meaning: str, values: Mapping[tuple[str, ...], float], *labels: str
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"tokenvault_{name}", meaning, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
