"""What is logged of a call: its failure, and in every line about it whose it is.

A call that succeeds is no line, nor at levels that are on by default one that
fails as calls do in the course of things: what was asked of whom, and what
came of it, is the audit log's.
"""

import logging
from collections.abc import Container, Mapping
from typing import Final

import structlog

from tokenvault_sidecar.api.calls import CallUnderWay, current_call
from tokenvault_sidecar.core.errors import Reason

LEVELS: Final[Mapping[Reason, int]] = {  # without INTERNAL, whose line says where it failed
    # the caller challenges the consumer, or mends its request
    Reason.GRANT_NOT_FOUND: logging.DEBUG,
    Reason.CONSENT_REQUIRED: logging.DEBUG,
    Reason.SESSION_ENDED: logging.DEBUG,
    Reason.STATE_NOT_FOUND: logging.DEBUG,
    Reason.AUTHORIZATION_DENIED: logging.DEBUG,
    Reason.CONFIRMATION_REQUIRED: logging.DEBUG,
    Reason.SCOPE_NOT_GRANTED: logging.INFO,
    Reason.INVALID_REQUEST: logging.INFO,
    # logged as events too, there with their level
    Reason.CONFIRMATION_CODE_WRONG: logging.INFO,
    Reason.CODE_REJECTED: logging.INFO,
    Reason.INVALID_ID_TOKEN: logging.INFO,
    Reason.ISSUER_MISMATCH: logging.INFO,
    Reason.SUBJECT_MISMATCH: logging.INFO,
    Reason.AS_UNAVAILABLE: logging.INFO,
    Reason.AS_MISCONFIGURED: logging.INFO,
    # somebody's configuration is wrong, or somebody tries
    Reason.UNKNOWN_CALLER: logging.WARNING,
    Reason.POLICY_DENIED: logging.WARNING,
    Reason.BEARER_INVALID: logging.WARNING,
    Reason.RATE_LIMITED: logging.WARNING,
    # nobody can be served: whether for long, a probe says
    Reason.STORE_UNAVAILABLE: logging.ERROR,
}

_BY_NAME: Final = {reason.value: level for reason, level in LEVELS.items()}

_log = structlog.get_logger()


def log_failure(call: CallUnderWay, outcome: str) -> None:
    """The one line of a call that failed; `outcome` is a reason, or a status of gRPC's own, as CANCELLED."""
    if outcome != Reason.INTERNAL:
        _log.log(_BY_NAME.get(outcome, logging.DEBUG), "call_failed", rpc=call.rpc, reason=outcome)


def about_call(brands: Container[str]) -> dict[str, object]:
    """What each line of the call under way carries, and of what it has begun; empty where there is none.

    `brands` are those that there are: another is whatever a caller wrote there.
    """
    call = current_call.get(None)
    if call is None:
        return {}
    known = {
        "request_id": call.request_id,
        "caller": call.caller.name if call.caller else call.identity,
        "brand": call.brand if call.brand in brands else None,
    }
    return {name: value for name, value in known.items() if value is not None}
