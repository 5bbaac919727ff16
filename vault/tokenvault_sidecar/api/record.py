"""The record of decisions: who asked what of whom, and what came of it."""

import time
from collections.abc import Callable
from functools import lru_cache

from tokenvault_sidecar.api.calls import CallUnderWay, Record
from tokenvault_sidecar.core.model import Context
from tokenvault_sidecar.core.ports import Audit


def recorder(audit: Audit, context_key: Callable[[str, Context], bytes]) -> Record:
    """Writes each call to the audit log. A context is in it by its blind key, never by its id."""

    def record(call: CallUnderWay, outcome: str) -> None:
        known = call.brand is not None and call.context is not None
        audit.write(
            {
                "time": _timestamp(time.time_ns() // 1_000_000),
                "caller": call.caller.name if call.caller else None,
                "identity": call.identity,
                "rpc": call.rpc,
                "brand": call.brand,
                "context": context_key(call.brand, call.context).hex() if known else None,  # type: ignore[arg-type]  # known
                "outcome": outcome,
                "version": call.version,
            }
        )

    return record


def _timestamp(milliseconds: int) -> str:
    """As RFC 3339 has it, in UTC."""
    second, rest = divmod(milliseconds, 1000)
    return f"{_second(second)}.{rest:03}+00:00"


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    """Many calls have the same."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
