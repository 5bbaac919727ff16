"""Durations, both ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenvault_sidecar.config.values import format_duration, is_loopback, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30),
        ("90s", 90),
        ("15m", 900),
        ("12h", 43200),
        ("1h30m", 5400),
        ("1m1ms", 60.001),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@given(st.integers(min_value=1, max_value=10**12))
def test_durations_come_back(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:1", True),
        ("http://127.1.2.3/", True),
        ("http://[::1]:1/", True),
        ("http://localhost/", True),
        ("http://LOCALHOST/", True),
        ("http://localhost.example.com/", False),
        ("http://127.0.0.1.example.com/", False),
        ("http://10.0.0.1/", False),
        ("http://[::2]/", False),
    ],
)
def test_loopback(url: str, loopback: bool) -> None:
    assert is_loopback(url) is loopback
