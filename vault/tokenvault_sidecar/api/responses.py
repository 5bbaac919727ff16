"""The core's answers, in the contract's messages."""

from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from tokenvault.v1 import error_reason_pb2 as reasons
from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault_sidecar.core.delegations import Challenge
from tokenvault_sidecar.core.errors import ConfirmationRequired
from tokenvault_sidecar.core.model import Context, ContextKind, Delegated, DelegationStatus, Outcome
from tokenvault_sidecar.core.tokens import IssuedToken, Revocation

_REVOCATIONS: Final = {
    Revocation.NOT_FOUND: pb.REVOCATION_NOT_FOUND,
    Revocation.QUEUED: pb.REVOCATION_QUEUED,
    Revocation.NOT_SUPPORTED: pb.REVOCATION_NOT_SUPPORTED,
}
_STATUSES: Final = {
    DelegationStatus.PENDING: pb.DELEGATION_STATUS_PENDING,
    DelegationStatus.AWAITING_CONFIRMATION: pb.DELEGATION_STATUS_AWAITING_CONFIRMATION,
    DelegationStatus.COMPLETED: pb.DELEGATION_STATUS_COMPLETED,
    DelegationStatus.DENIED: pb.DELEGATION_STATUS_DENIED,
    DelegationStatus.FAILED: pb.DELEGATION_STATUS_FAILED,
    DelegationStatus.EXPIRED: pb.DELEGATION_STATUS_EXPIRED,
}


def challenge(answer: Challenge) -> pb.StartDelegationResponse:
    """The answer to StartDelegation."""
    response = pb.StartDelegationResponse(
        delegation_id=answer.delegation_id,
        authorization_url=answer.authorization_url.reveal(),
    )
    _set(response.expire_time, answer.expires_at)
    return response


def consent_challenge(answer: Challenge) -> pb.ConsentChallenge:
    """The detail of a GetToken that fails because the consumer must be asked."""
    detail = pb.ConsentChallenge(
        delegation_id=answer.delegation_id,
        authorization_url=answer.authorization_url.reveal(),
    )
    _set(detail.expire_time, answer.expires_at)
    return detail


def confirmation_wanted(error: ConfirmationRequired) -> pb.ConsentChallenge:
    """The detail of a GetToken that fails because the consumer must bring a code: no link."""
    detail = pb.ConsentChallenge(delegation_id=error.delegation_id)
    _set(detail.expire_time, error.expires_at)
    return detail


def delegated(answer: Delegated) -> pb.CompleteDelegationResponse:
    """The answer to CompleteDelegation."""
    response = pb.CompleteDelegationResponse(
        brand_id=answer.brand,
        context=_context(answer.context),
        granted_scopes=answer.scopes,
        subject=answer.subject or "",
    )
    if answer.access_token_expires_at is not None:
        _set(response.access_token_expire_time, answer.access_token_expires_at)
    if answer.session_ends_at is not None:
        _set(response.session_expire_time, answer.session_ends_at)
    if answer.confirmation is not None:
        response.confirmation.code = answer.confirmation.code.reveal()
        _set(response.confirmation.expire_time, answer.confirmation.expires_at)
    return response


def confirmed(answer: Delegated) -> pb.ConfirmDelegationResponse:
    """The answer to ConfirmDelegation."""
    return pb.ConfirmDelegationResponse(delegated=delegated(answer))


def outcome(answer: Outcome) -> pb.WatchDelegationResponse:
    """An answer to WatchDelegation."""
    response = pb.WatchDelegationResponse(status=_STATUSES[answer.status])
    if answer.reason is not None:
        response.reason = reasons.ErrorReason.Value(f"ERROR_REASON_{answer.reason.value}")
    if answer.delegated is not None:
        response.delegated.CopyFrom(delegated(answer.delegated))
    _set(response.expire_time, answer.expires_at)
    return response


def token(answer: IssuedToken) -> pb.GetTokenResponse:
    """The answer to GetToken."""
    response = pb.GetTokenResponse(
        access_token=answer.access_token.reveal(),
        token_type=answer.token_type,
        scopes=answer.scopes,
        token_version=answer.version,
        degraded=answer.degraded,
    )
    if answer.expires_at is not None:
        _set(response.expire_time, answer.expires_at)
    if answer.id_token is not None:
        response.id_token = answer.id_token.reveal()
    return response


def invalidated(answer: Revocation) -> pb.InvalidateResponse:
    """The answer to Invalidate."""
    return pb.InvalidateResponse(revocation=_REVOCATIONS[answer])


def _context(context: Context) -> pb.Context:
    if context.kind is ContextKind.CONSUMER:
        return pb.Context(consumer=pb.ConsumerContext(consumer_id=context.id))
    return pb.Context(conversation=pb.ConversationContext(conversation_id=context.id))


def _set(time: Timestamp, at: float) -> None:
    """Whole milliseconds, never later than `at`."""
    seconds, milliseconds = divmod(int(at * 1000), 1000)
    time.seconds = seconds
    time.nanos = milliseconds * 1_000_000
