"""Limits: a bucket of calls, and calls at once."""

import pytest

from tests.core.world import START as NOW
from tokenvault_sidecar.core.errors import RateLimited
from tokenvault_sidecar.core.limits import Limits, Meter


def test_a_burst_then_the_rate() -> None:
    meter = Meter("bot", Limits(rate=10, burst=5, concurrency=100), now=NOW)
    for _ in range(5):
        meter.enter(NOW)
    with pytest.raises(RateLimited, match="bot") as error:
        meter.enter(NOW)
    assert error.value.retry_after == pytest.approx(0.1)
    with pytest.raises(RateLimited) as error:
        meter.enter(NOW + 0.05)
    assert error.value.retry_after == pytest.approx(0.05)
    meter.enter(NOW + 0.1001)
    for _ in range(5):
        meter.enter(NOW + 1000)
    with pytest.raises(RateLimited):
        meter.enter(NOW + 1000)


def test_calls_at_once() -> None:
    meter = Meter("bot", Limits(rate=1000, burst=1000, concurrency=2), now=NOW)
    with meter.call(NOW), meter.call(NOW):
        with pytest.raises(RateLimited, match="under way") as error:
            meter.enter(NOW)
        assert error.value.retry_after
    meter.enter(NOW)


def test_a_refused_call_costs_nothing() -> None:
    meter = Meter("bot", Limits(rate=1, burst=1, concurrency=1), now=NOW)
    with meter.call(NOW):
        for _ in range(10):
            with pytest.raises(RateLimited):
                meter.enter(NOW)
    with meter.call(NOW + 1):
        pass


def test_a_clock_that_goes_back_takes_nothing_away() -> None:
    meter = Meter("bot", Limits(rate=1, burst=2, concurrency=5), now=NOW)
    meter.enter(NOW)
    meter.enter(NOW - 3600)
    with pytest.raises(RateLimited):
        meter.enter(NOW - 3600)
    meter.enter(NOW - 3599)
