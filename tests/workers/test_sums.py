"""Several processes' metrics as one's."""

import json
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tokenvault_sidecar.core.ports import Stock
from tokenvault_sidecar.ops.gauges import Gauges, State
from tokenvault_sidecar.ops.metrics import Metrics
from tokenvault_sidecar.ops.sums import GAUGES, Figures, Total, counted, from_json, read, to_json, total

BEGIN, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)


async def _process(calls: int, *, ready: bool = True, stock: bool = True, queue: int = 2) -> Figures:
    metrics = Metrics()
    metrics.know(["acme"])
    for _ in range(calls):
        metrics.call("GetToken", "bot", "OK", 0.002)
    metrics("renewal", brand="acme", outcome="renewed")
    state = State(
        ready={"sidecar": ready},
        circuits={"acme": not ready},
        commits=3,
        commit_seconds=0.5,
        writes=4,
        queue=queue,
        certificate=(BEGIN, END),
    )

    async def held() -> Stock:
        return Stock({("acme", "consumer"): 7}, {"acme": 100.0}, 5, 50.0)

    gauges = Gauges(metrics.registry, "1.2.3", lambda: state, held)
    gauges.shows_stock = stock
    await gauges.refresh()
    return read(metrics.registry)


def _shown(*parts: Figures) -> dict[tuple[str, ...], float]:
    registry = CollectorRegistry()
    Total(registry, lambda: parts)
    return {
        (sample.name.removeprefix("tokenvault_"), *(value for _, value in sorted(sample.labels.items()))): (
            sample.value
        )
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


async def test_counts_are_added_and_states_are_the_worst() -> None:
    found = _shown(await _process(3), await _process(4, ready=False, stock=False, queue=1))
    assert found["calls_total", "bot", "OK", "GetToken"] == 7
    assert found["call_duration_seconds_count", "GetToken"] == 7
    assert found["call_duration_seconds_bucket", "0.001", "GetToken"] == 0
    assert found["call_duration_seconds_bucket", "0.0025", "GetToken"] == 7
    assert found["renewals_total", "acme", "renewed"] == 2
    assert found["store_commits_total",] == 6
    assert found["store_queue_length",] == 3
    assert found["ready", "sidecar"] == 0
    assert found["circuit_open", "acme"] == 1
    assert found["build_info", "1.2.3"] == 1
    # Of the one store and the one certificate.
    assert found["grants", "acme", "consumer"] == 7
    assert found["revocations_waiting",] == 5
    assert found["certificate_not_after_timestamp_seconds",] == END.timestamp()


async def test_what_a_process_counted_outlives_it() -> None:
    ended, lives = await _process(3, queue=9), await _process(4)
    found = _shown(total([[], counted(ended)]), lives)
    assert found["calls_total", "bot", "OK", "GetToken"] == 7
    assert found["store_queue_length",] == 2
    twice = total([counted(ended), counted(await _process(5))])
    assert _shown(twice, lives)["calls_total", "bot", "OK", "GetToken"] == 12
    assert _shown(lives)["calls_total", "bot", "OK", "GetToken"] == 4  # adding changes no part


async def test_it_comes_through_as_json() -> None:
    figures = await _process(3)
    assert from_json(json.loads(json.dumps(to_json(figures)))) == figures


async def test_one_process_looks_as_it_does_by_itself() -> None:
    """Every gauge has its rule, too."""
    metrics = Metrics()
    alone = {
        (sample.name, *sorted(sample.labels.items()))
        for family in text_string_to_metric_families(generate_latest(metrics.registry).decode())
        for sample in family.samples
    }
    registry = CollectorRegistry()
    Total(registry, lambda: [read(metrics.registry), read(metrics.registry)])
    assert alone == {
        (sample.name, *sorted(sample.labels.items()))
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }
    gauges = {family.name for family in await _process(1) if family.kind == "gauge"}
    assert gauges == set(GAUGES)
