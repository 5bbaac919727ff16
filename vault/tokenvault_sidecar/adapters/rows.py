"""Between the ports' records and the rows of a database."""

import secrets
from collections.abc import Iterable
from typing import Any

from tokenvault_sidecar.core.model import ContextKind
from tokenvault_sidecar.core.ports import (
    Attempt,
    Counts,
    DelegationRow,
    GrantRow,
    OutcomeRow,
    RevocationRow,
    SealedRecord,
    WrappedKey,
)

Values = dict[str, object]


def new_taker() -> int:
    """By a number of its own each who takes a delegation can tell whether it was the one."""
    return 1 + secrets.randbelow(2**62)


def grant(row: Any) -> GrantRow:
    *columns, unanswered, failures, retry_at, reason, leased = row
    key, brand, kind, version, sealed, purge_at, renew_at = columns
    attempt = Attempt(bool(leased), unanswered, failures, retry_at, reason)
    return GrantRow(key, brand, ContextKind(kind), version, sealed, purge_at, renew_at, attempt)


def grant_values(row: GrantRow) -> Values:
    return {
        "key": row.key,
        "brand": row.brand,
        "kind": row.kind.value,
        "version": row.version,
        "sealed": row.sealed,
        "purge_at": row.purge_at,
        "renew_at": row.renew_at,
    } | attempt_values(row.attempt)


def attempt_values(attempt: Attempt) -> Values:
    return {
        "unanswered": attempt.unanswered,
        "failures": attempt.failures,
        "retry_at": attempt.retry_at,
        "reason": attempt.reason,
    }


def delegation(row: Any) -> DelegationRow:
    key, context_key, brand, kind, expires_at, sealed = row
    return DelegationRow(key, context_key, brand, ContextKind(kind), expires_at, sealed)


def delegation_values(row: DelegationRow) -> Values:
    return {
        "key": row.key,
        "context_key": row.context_key,
        "brand": row.brand,
        "kind": row.kind.value,
        "expires_at": row.expires_at,
        "sealed": row.sealed,
    }


def outcome(row: Any) -> OutcomeRow:
    key, context_key, brand, kind, purge_at, sealed = row
    return OutcomeRow(key, context_key, brand, ContextKind(kind), purge_at, sealed)


def outcome_values(row: OutcomeRow) -> Values:
    return {
        "key": row.key,
        "context_key": row.context_key,
        "brand": row.brand,
        "kind": row.kind.value,
        "purge_at": row.purge_at,
        "sealed": row.sealed,
    }


def revocation_values(row: RevocationRow) -> Values:
    return {
        "id": row.id,
        "brand": row.brand,
        "due_at": row.due_at,
        "give_up_at": row.give_up_at,
        "sealed": row.sealed,
        "tries": row.tries,
    }


def key_values(key: WrappedKey) -> Values:
    return {
        "id": key.id,
        "purpose": key.purpose,
        "kek": key.kek,
        "wrapped": key.wrapped,
        "created_at": key.created_at,
        "seals": key.seals,
    }


def reseal_values(record: SealedRecord, anew: bytes) -> Values:
    key: Values = {"id": record.key.decode()} if record.table == "revocations" else {"key": record.key}
    return key | {"sealed": record.sealed, "anew": anew}


def counts(grants: Iterable[Any], others: tuple[int, int]) -> Counts:
    """Of what the two queries gave."""
    rows = list(grants)
    delegations, revocations = others
    return Counts(
        grants={(brand, ContextKind(kind)): number for brand, kind, number, _, _ in rows},
        ambiguous=sum(row[3] for row in rows),
        due=sum(row[4] for row in rows),
        delegations=delegations,
        revocations=revocations,
    )
