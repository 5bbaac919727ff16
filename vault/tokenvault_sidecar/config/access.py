"""`[limits]` and `[audit]`: how much a caller may ask, and the record of what was decided."""

from pydantic import Field

from tokenvault_sidecar.config.files import OutputPath
from tokenvault_sidecar.config.tables import Table
from tokenvault_sidecar.config.values import Duration, Flag, parse_duration
from tokenvault_sidecar.core.limits import Limits


class LimitsTable(Table):
    """What one caller may ask at most; more is answered RATE_LIMITED."""

    rate: float = Field(default=5000.0, description="Calls a second, sustained.", gt=0, examples=[200.0])
    burst: int = Field(
        default=10000,
        description="Calls saved up while it asks less, and spent at once.",
        ge=1,
        examples=[400],
    )
    concurrency: int = Field(default=2000, description="Calls under way.", ge=1, examples=[100])

    def to_limits(self) -> Limits:
        """What the core knows of them."""
        return Limits(rate=self.rate, burst=self.burst, concurrency=self.concurrency)


class AllLimitsTable(LimitsTable):
    """What each caller may ask at most, unless its own table says otherwise; and the longest call."""

    longest_call: Duration = Field(
        default=parse_duration("60s"),
        description="The longest a call may take, whatever deadline the caller sets.",
        examples=["60s"],
    )


class AuditTable(Table):
    """One JSON line per decision, chained by keyed hashes; `tokenvault audit verify` checks the log."""

    path: OutputPath = Field(
        description="The file to append to; each sidecar has its own. Of several workers each has one, "
        "with `worker-N.` before its name.",
        examples=["/var/log/tokenvault/audit.jsonl"],
    )
    fail_closed: Flag = Field(
        default=True,
        description="Whether nothing is released while the log cannot be written.",
        examples=[False],
    )
    rotate_bytes: int = Field(
        default=0,
        description="The size after which it goes on in a new file; 0 leaves that to others, who "
        "then send SIGHUP.",
        ge=0,
        examples=[104857600],
    )
