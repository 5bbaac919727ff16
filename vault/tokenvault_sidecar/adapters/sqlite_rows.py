"""Between the ports' rows and a SQLite store's."""

from typing import Any

from tokenvault_sidecar.core.model import ContextKind
from tokenvault_sidecar.core.ports import Attempt, DelegationRow, GrantRow, OutcomeRow, RevocationRow


def grant_values(row: GrantRow) -> dict[str, object]:
    return {
        "key": row.key,
        "brand": row.brand,
        "kind": row.kind.value,
        "version": row.version,
        "sealed": row.sealed,
        "purge_at": row.purge_at,
        "renew_at": row.renew_at,
    } | attempt_values(row.attempt)


def attempt_values(attempt: Attempt) -> dict[str, object]:
    return {
        "unanswered": attempt.unanswered,
        "failures": attempt.failures,
        "retry_at": attempt.retry_at,
        "reason": attempt.reason,
    }


def delegation(row: Any) -> DelegationRow:
    key, context_key, brand, kind, expires_at, sealed = row
    return DelegationRow(key, context_key, brand, ContextKind(kind), expires_at, sealed)


def outcome(row: Any) -> OutcomeRow:
    key, context_key, brand, kind, purge_at, sealed = row
    return OutcomeRow(key, context_key, brand, ContextKind(kind), purge_at, sealed)


def outcome_values(row: OutcomeRow) -> tuple[object, ...]:
    return (row.key, row.context_key, row.brand, row.kind.value, row.purge_at, row.sealed)


def revocation_values(row: RevocationRow) -> tuple[object, ...]:
    return (row.id, row.brand, row.due_at, row.give_up_at, row.sealed, row.tries)
