"""From what gRPC raises to the exceptions of `tokenvault.errors`."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # typed, but unmarked
from grpc_status import rpc_status

from tokenvault import errors
from tokenvault.models import Challenge
from tokenvault.v1 import token_vault_pb2 as pb

_DOMAIN = "tokenvault.v1"

_BY_REASON: Mapping[str, type[errors.TokenVaultError]] = {
    "GRANT_NOT_FOUND": errors.GrantNotFound,
    "CONSENT_REQUIRED": errors.GrantExpired,
    "SESSION_ENDED": errors.SessionEnded,
    "SCOPE_NOT_GRANTED": errors.ScopeNotGranted,
    "STATE_NOT_FOUND": errors.StateNotFound,
    "AUTHORIZATION_DENIED": errors.AuthorizationDenied,
    "CODE_REJECTED": errors.CodeRejected,
    "INVALID_ID_TOKEN": errors.InvalidIdToken,
    "ISSUER_MISMATCH": errors.IssuerMismatch,
    "SUBJECT_MISMATCH": errors.SubjectMismatch,
    "AS_UNAVAILABLE": errors.AuthorizationServerUnavailable,
    "AS_MISCONFIGURED": errors.AuthorizationServerMisconfigured,
    "UNKNOWN_CALLER": errors.UnknownCaller,
    "POLICY_DENIED": errors.PolicyDenied,
    "BEARER_INVALID": errors.BearerInvalid,
    "RATE_LIMITED": errors.RateLimited,
    "STORE_UNAVAILABLE": errors.StoreUnavailable,
    "INVALID_REQUEST": errors.InvalidRequest,
    "INTERNAL": errors.InternalError,
    "CONFIRMATION_REQUIRED": errors.ConfirmationRequired,
    "CONFIRMATION_CODE_WRONG": errors.ConfirmationCodeWrong,
}

_BY_CODE: Mapping[grpc.StatusCode, type[errors.TokenVaultError]] = {
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.RateLimited,
    grpc.StatusCode.PERMISSION_DENIED: errors.AccessDenied,
    grpc.StatusCode.UNAUTHENTICATED: errors.AccessDenied,
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.INTERNAL: errors.InternalError,
    grpc.StatusCode.UNKNOWN: errors.InternalError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
}

M = TypeVar("M", bound=Message)


def error_from(error: grpc.RpcError, *, address: str, timeout: float) -> errors.TokenVaultError:
    """Our exception for gRPC's; `address` and `timeout` (seconds) are those of the call."""
    status = _status(error)
    info = _detail(status, error_details_pb2.ErrorInfo)
    reason = info.reason if info and info.domain == _DOMAIN else None
    code, message = error.code(), error.details() or "no details"
    kind = _BY_REASON.get(reason or "") or _BY_CODE.get(code, errors.TokenVaultError)
    if reason is None and code is grpc.StatusCode.UNAVAILABLE:
        kind, message = errors.VaultUnreachable, f"no connection to the sidecar at {address}: {message}"
    elif reason is None and code is grpc.StatusCode.DEADLINE_EXCEEDED:
        message = f"no answer from the sidecar at {address} within {timeout:g} s"
    retry = _detail(status, error_details_pb2.RetryInfo)
    ours = kind(
        message,
        reason=reason,
        code=code,
        retry_after=retry.retry_delay.ToTimedelta().total_seconds() if retry else None,
        metadata=info.metadata if reason is not None and info else None,
    )
    if isinstance(ours, errors.InvalidRequest) and (bad := _detail(status, error_details_pb2.BadRequest)):
        ours.field_violations = tuple(
            errors.FieldViolation(v.field, v.description) for v in bad.field_violations
        )
    if told := _detail(status, pb.ConsentChallenge):
        end = told.expire_time.ToDatetime(tzinfo=UTC)
        if isinstance(ours, errors.ConsentRequired):
            ours.challenge = Challenge(told.delegation_id, told.authorization_url, end)
        elif isinstance(ours, errors.ConfirmationRequired):
            ours.delegation_id, ours.expire_time = told.delegation_id, end
    return ours


def failure(reason: str | None) -> errors.DelegationFailed:
    """What a delegation came to, by the reason it is told with."""
    kind = _BY_REASON.get(reason or "", errors.DelegationFailed)
    if not issubclass(kind, errors.DelegationFailed):
        kind = errors.DelegationFailed
    return kind(f"the delegation failed ({reason}): nothing was stored, start a new one", reason=reason)


def confirmation_required(delegation_id: str, end: datetime) -> errors.ConfirmationRequired:
    """That the consumer has to bring a code, as a watch tells it."""
    error = errors.ConfirmationRequired(
        "the consumer has logged in: ask for the confirmation code they were shown",
        reason="CONFIRMATION_REQUIRED",
    )
    error.delegation_id, error.expire_time = delegation_id, end
    return error


def _status(error: grpc.RpcError) -> status_pb2.Status:
    """What the sidecar said; empty where it was not the sidecar that spoke."""
    try:
        status: status_pb2.Status | None = rpc_status.from_call(error)
    except (ValueError, DecodeError):
        status = None
    return status or status_pb2.Status()


def _detail(status: status_pb2.Status, kind: type[M]) -> M | None:
    for packed in status.details:
        detail = kind()
        if packed.Unpack(detail):
            return detail
    return None
