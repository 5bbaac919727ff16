"""How commands show what they know: as JSON for scripts, in columns for people."""

import json
from datetime import UTC, datetime


def moment(seconds: float | None) -> str | None:
    """A time since the epoch as RFC 3339 has it, to the second."""
    return None if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def as_json(thing: object) -> str:
    """On one line."""
    return json.dumps(thing, ensure_ascii=True)


def size(octets: int) -> str:
    """In megabytes."""
    return f"{octets / 1e6:.1f} MB"
