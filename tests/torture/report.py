"""The verdict as a table."""

from collections.abc import Iterator

from tests.torture.judge import Excuse, Wrong
from tests.torture.run import Verdict

_SHOWN = 5

_HAPPENED = (
    "kills",
    "restarts of the database",
    "delegations",
    "redemptions",
    "redemptions answered with tokens",
    "grants caught in a redemption",
    "refresh tokens shown twice",
    "tokens served",
    "ended by the server while in use",
    "served dead, before any sidecar was told",
    "calls cut off by a kill",
    "calls told to wait",
)


def table(verdict: Verdict) -> str:
    """Counts first, then why grants needed consent, then what must not happen."""
    judge, plan = verdict.judge, verdict.plan
    given_up = "given up although the server had seen neither redemption"
    rows = [
        (
            f"{plan.grants} grants, {plan.sidecars} sidecar(s) on {plan.store}, seed {plan.seed}",
            f"{verdict.seconds:.0f} s",
        ),
        *((name, f"{judge.counts[name]:,}") for name in _HAPPENED),
        ("grants that answered CONSENT_REQUIRED", f"{judge.excuses.total():,}"),
        *((f"  {excuse.value}", f"{judge.excuses[excuse]:,}") for excuse in Excuse),
        (f"    {given_up}", f"{judge.counts[given_up]:,}"),
        ("at the end: grants whose newest tokens were stored", f"{verdict.stored:,}"),
        ("  of these work", f"{verdict.work:,}"),
        *((f"MUST BE 0: {wrong.value}", f"{len(judge.wrongs.get(wrong, ())):,}") for wrong in Wrong),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join([*(f"{name:<{width}}  {count:>8}" for name, count in rows), *_notes(verdict)])


def _notes(verdict: Verdict) -> Iterator[str]:
    for wrong, notes in verdict.judge.wrongs.items():
        for note in notes[:_SHOWN]:
            yield f"WRONG {wrong.value}: {note}"
