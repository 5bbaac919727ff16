"""The metrics of several processes as one's: what is counted is added up, also of those that have ended."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

Rule = Callable[[float, float], float]


def _plus(one: float, other: float) -> float:
    return one + other


GAUGES: Final[Mapping[str, Rule]] = {
    "process_max_fds": _plus,
    "process_open_fds": _plus,
    "process_resident_memory_bytes": _plus,
    "process_start_time_seconds": min,
    "process_virtual_memory_bytes": _plus,
    "tokenvault_build_info": max,
    "tokenvault_certificate_not_after_timestamp_seconds": min,
    "tokenvault_certificate_not_before_timestamp_seconds": max,
    "tokenvault_circuit_open": max,
    "tokenvault_data_key_created_timestamp_seconds": max,
    "tokenvault_grants": max,
    "tokenvault_ready": min,
    "tokenvault_renewal_next_due_timestamp_seconds": min,
    "tokenvault_revocations_waiting": max,
    "tokenvault_store_queue_length": _plus,
}
"""How two processes' values of a gauge become one; those of the one store are the same in all."""

_COUNTED: Final = ("counter", "histogram")
_CREATED: Final = "_created"

Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Family:
    """One metric: its samples by name and labels."""

    name: str
    meaning: str
    kind: str
    unit: str = ""
    samples: dict[tuple[str, Labels], float] = field(default_factory=dict)

    def take(self, other: "Family") -> None:
        """Add the other's samples to these."""
        for key, value in other.samples.items():
            mine = self.samples.get(key)
            self.samples[key] = value if mine is None else self._rule(key[0])(mine, value)

    def _rule(self, sample: str) -> Rule:
        if self.kind in _COUNTED:
            return min if sample.endswith(_CREATED) else _plus
        return GAUGES[self.name]


Figures = list[Family]
"""One process's metrics at one moment."""


def read(registry: CollectorRegistry) -> Figures:
    """What it has now."""
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            metric.unit,
            {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in metric.samples},
        )
        for metric in registry.collect()
    ]


def total(parts: Iterable[Figures]) -> Figures:
    """All of them as one's."""
    found: dict[str, Family] = {}
    for part in parts:
        for family in part:
            known = found.get(family.name)
            if known is None:
                found[family.name] = known = Family(family.name, family.meaning, family.kind, family.unit)
            known.take(family)
    return list(found.values())


def to_json(figures: Figures) -> list[Any]:
    """As JSON has it, for `from_json`."""
    return [
        [one.name, one.meaning, one.kind, one.unit, [[*key, value] for key, value in one.samples.items()]]
        for one in figures
    ]


def from_json(told: list[Any]) -> Figures:
    """The reverse of `to_json`."""
    return [
        Family(
            name,
            meaning,
            kind,
            unit,
            {
                (sample, tuple((label, of) for label, of in labels)): value
                for sample, labels, value in samples
            },
        )
        for name, meaning, kind, unit, samples in told
    ]


def counted(figures: Figures) -> Figures:
    """What outlives a process: else counters would fall, and Prometheus would take that for new events."""
    return [family for family in figures if family.kind in _COUNTED]


class Total(Collector):
    """Shows what `parts` returns, as one process's."""

    def __init__(self, registry: CollectorRegistry, parts: Callable[[], Iterable[Figures]]) -> None:
        self._parts = parts
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Nothing is known before it is collected."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client asks."""
        for family in total(self._parts()):
            metric = Metric(family.name, family.meaning, family.kind, family.unit)
            for (name, labels), value in family.samples.items():
                metric.add_sample(name, dict(labels), value)
            yield metric
