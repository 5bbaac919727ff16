"""Errors become gRPC statuses here, and nowhere else."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Never

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # typed, but unmarked
from grpc_status import rpc_status

from tokenvault_sidecar.core.errors import ConfirmationCodeWrong, InvalidRequest, Reason, VaultError

DOMAIN: Final = "tokenvault.v1"
"""The domain of every google.rpc.ErrorInfo."""

CODES: Final[Mapping[Reason, grpc.StatusCode]] = {
    Reason.GRANT_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.CONSENT_REQUIRED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.SESSION_ENDED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.SCOPE_NOT_GRANTED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.STATE_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.AUTHORIZATION_DENIED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.CODE_REJECTED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.INVALID_ID_TOKEN: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.ISSUER_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.SUBJECT_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.AS_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.AS_MISCONFIGURED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.UNKNOWN_CALLER: grpc.StatusCode.PERMISSION_DENIED,
    Reason.POLICY_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.BEARER_INVALID: grpc.StatusCode.UNAUTHENTICATED,
    Reason.RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.STORE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
    Reason.CONFIRMATION_REQUIRED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.CONFIRMATION_CODE_WRONG: grpc.StatusCode.FAILED_PRECONDITION,
}

NO_RETRY: Final = ("grpc-retry-pushback-ms", "-1")
"""The trailing metadata by which a server forbids a retry policy to repeat the call (gRFC A6)."""


def to_status(error: VaultError) -> status_pb2.Status:
    """ErrorInfo always, RetryInfo where waiting helps, BadRequest where a field is at fault."""
    status = status_pb2.Status(code=CODES[error.reason].value[0], message=error.message)
    info = error_details_pb2.ErrorInfo(reason=error.reason.value, domain=DOMAIN)
    if isinstance(error, ConfirmationCodeWrong):
        info.metadata["tries_left"] = str(error.tries_left)
    status.details.add().Pack(info)
    if error.retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(math.ceil(error.retry_after * 1000))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    if isinstance(error, InvalidRequest):
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.problem)
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    return status


async def abort(
    context: grpc.aio.ServicerContext[Any, Any],
    error: VaultError,
    *,
    metadata: Sequence[tuple[str, str]] = (),
    detail: Message | None = None,
) -> Never:
    """End the call with this error's status, `detail` in it, and `metadata` beside it."""
    told = to_status(error)
    if detail is not None:
        told.details.add().Pack(detail)
    status = rpc_status.to_status(told)
    status = status._replace(trailing_metadata=(*status.trailing_metadata, *metadata))
    if status.code is grpc.StatusCode.UNAVAILABLE:
        # Clients repeat what did not reach us. What did, they repeat when RetryInfo says, not by themselves.
        status = status._replace(trailing_metadata=(*status.trailing_metadata, NO_RETRY))
    await context.abort_with_status(status)
