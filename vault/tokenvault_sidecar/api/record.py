"""The record of decisions: who asked what of whom, and what came of it."""

from collections.abc import Callable
from datetime import UTC, datetime

from tokenvault_sidecar.api.calls import CallUnderWay, Record
from tokenvault_sidecar.core.model import Context
from tokenvault_sidecar.core.ports import Audit


def recorder(audit: Audit, context_key: Callable[[str, Context], bytes]) -> Record:
    """Writes each call to the audit log. A context is in it by its blind key, never by its id."""

    def record(call: CallUnderWay, outcome: str) -> None:
        known = call.brand is not None and call.context is not None
        audit.write(
            {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
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
