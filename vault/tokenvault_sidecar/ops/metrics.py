"""What is counted as it happens: calls, and the core's events. Names and units follow Prometheus.

No label takes a value from outside: callers and brands are the configured
ones, else "unknown"; everything else comes from a list in the code.
"""

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

UNKNOWN: Final = "unknown"

_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_RENEWALS: Final = (
    "renewed",
    "late",
    "refused",
    "lost",
    "ambiguous",
    "as_unavailable",
    "as_misconfigured",
    "foreign_subject",
)
_REVOCATIONS: Final = {
    "revocation": "revoked",
    "revocation_waits": "waits",
    "revocation_given_up": "given_up",
}
_CONFIRMATIONS: Final = ("shown", "confirmed", "wrong")
_UNSAVED: Final = {"renewal_unsaved": "renewal", "delegation_unsaved": "delegation"}


class Metrics:
    """Implements core.ports.Events, too. All metrics are in `registry`, and in no other."""

    def __init__(self) -> None:
        self.registry: Final = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._brands: frozenset[str] = frozenset()
        self._calls = self._counter("calls", "Calls, by how they ended.", "rpc", "caller", "reason")
        self._seconds = Histogram(
            "tokenvault_call_duration_seconds",
            "Time from a call's admission to its answer.",
            ("rpc",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._renewals = self._counter("renewals", "Redemptions of refresh tokens.", "brand", "outcome")
        self._delegations = self._counter("delegations", "Delegations that ended.", "brand", "outcome")
        self._confirmations = self._counter(
            "confirmations",
            "Confirmation codes: shown to consumers, brought, and others that were tried.",
            "brand",
            "outcome",
        )
        self._revocations = self._counter(
            "revocations", "Attempts to revoke a token (RFC 7009).", "brand", "outcome"
        )
        self._unsaved = self._counter(
            "unsaved_retries", "Answers held in memory: the store did not take them.", "brand", "what"
        )
        self._defects = self._counter("defects", "Background work that failed unexpectedly.")
        self._clock_jumps = self._counter("clock_jumps", "Times the wall clock went its own way.")
        self._unreadable = self._counter("unreadable_grants", "Grants forgotten unopened.", "brand")
        self._known: dict[tuple[str, str | None, str], tuple[Counter, Histogram]] = {}

    def know(self, brands: Iterable[str]) -> None:
        """These are configured. Their counters begin at 0, so that the first event is an increase."""
        self._brands = frozenset(brands)
        for brand in self._brands:
            for outcome in _RENEWALS:
                self._renewals.labels(brand, outcome)
            for outcome in _REVOCATIONS.values():
                self._revocations.labels(brand, outcome)
            for what in _UNSAVED.values():
                self._unsaved.labels(brand, what)
            self._delegations.labels(brand, "completed")
            for outcome in _CONFIRMATIONS:
                self._confirmations.labels(brand, outcome)
            self._unreadable.labels(brand)

    def call(self, rpc: str, caller: str | None, reason: str, seconds: float) -> None:
        """A call ended. `caller` None: nobody who is configured."""
        key = (rpc, caller, reason)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = (
                self._calls.labels(rpc, caller or UNKNOWN, reason),
                self._seconds.labels(rpc),
            )
        known[0].inc()
        known[1].observe(seconds)

    def __call__(self, event: str, /, **facts: str | int | float) -> None:
        """Count it, where it is one that is counted."""
        named = str(facts.get("brand"))
        brand = named if named in self._brands else UNKNOWN
        outcome = str(facts.get("outcome"))
        if event == "renewal":
            self._renewals.labels(brand, outcome).inc()
        elif event == "delegation":
            self._delegations.labels(brand, outcome).inc()
        elif event == "confirmation":
            self._confirmations.labels(brand, outcome).inc()
        elif event in _REVOCATIONS:
            self._revocations.labels(brand, _REVOCATIONS[event]).inc()
        elif event in _UNSAVED:
            self._unsaved.labels(brand, _UNSAVED[event]).inc()
        elif event == "defect":
            self._defects.inc()
        elif event in ("clock_jumped", "clock_followed"):
            self._clock_jumps.inc()
        elif event == "unreadable_forgotten":
            self._unreadable.labels(brand).inc()

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"tokenvault_{name}", meaning, labels, registry=self.registry)
