"""All that is the same for both clients: what a call sends, how its answer is read, how long it may take."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Generic, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from tokenvault import errors
from tokenvault._status import confirmation_required, failure
from tokenvault.models import Challenge, ChallengeOptions, Confirmation, Delegated, Revocation, Token
from tokenvault.v1 import error_reason_pb2 as reasons
from tokenvault.v1 import token_vault_pb2 as pb

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Result = TypeVar("Result")


class Deadline:
    """When a call must be over, with all that it takes."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds, at least none."""
        return max(0.0, self._at - time.monotonic())


@dataclass(frozen=True, slots=True)
class Call(Generic[Request, Response, Result]):
    """One call, ready to be made; `timeout` is its own default, in seconds."""

    request: Request
    read: Callable[[Response], Result]
    timeout: float

    def deadline(self, *timeouts: float | None) -> Deadline:
        """How long it may take from now: the first of `timeouts` that is given, else its own."""
        return Deadline(next((t for t in timeouts if t is not None), self.timeout))


def bearer(token: str | None) -> tuple[tuple[str, str], ...]:
    """The metadata that shows an access token (RFC 6750 section 2.1)."""
    return () if token is None else (("authorization", f"Bearer {token}"),)


def start_delegation(
    brand: str,
    *,
    consumer: str | None,
    conversation: str | None,
    scopes: str | Iterable[str],
    redirect_uri: str | None,
    expected_subject: str | None,
    authorization_parameters: Mapping[str, str] | None,
) -> Call[pb.StartDelegationRequest, pb.StartDelegationResponse, Challenge]:
    request = pb.StartDelegationRequest(
        brand_id=brand,
        context=context(consumer, conversation),
        scopes=scope_list(scopes),
        redirect_uri=redirect_uri or "",
        expected_subject=expected_subject or "",
        authorization_parameters=authorization_parameters,
    )
    return Call(request, _challenge, timeout=10.0)


def complete_delegation(
    parameters: Mapping[str, str] | None, **named: str | None
) -> Call[pb.CompleteDelegationRequest, pb.CompleteDelegationResponse, Delegated]:
    if parameters is not None:
        if any(value is not None for value in named.values()):
            raise TypeError("give the redirect's parameters as a mapping or by keyword, not both")
        named = {name: parameters.get(name) for name in named}
    sent = {name: value for name, value in named.items() if value is not None}
    for name, value in sent.items():
        if not isinstance(value, str):  # parse_qs gives lists
            raise TypeError(f"{name} must be one str, not {type(value).__name__}")
    return Call(pb.CompleteDelegationRequest(**sent), _delegated, timeout=30.0)  # the code is exchanged


def watch_delegation(
    delegation_id: str,
) -> Call[pb.WatchDelegationRequest, pb.WatchDelegationResponse, Delegated]:
    # The consumer's time, not the network's: the sidecar ends it when the link does.
    request = pb.WatchDelegationRequest(delegation_id=delegation_id)
    return Call(request, partial(_outcome, delegation_id), timeout=86400.0)


def is_news(event: pb.WatchDelegationResponse) -> bool:
    """Whether the caller has something to do now, though the stream goes on."""
    return event.status == pb.DELEGATION_STATUS_AWAITING_CONFIRMATION


def confirm_delegation(
    delegation_id: str, code: str
) -> Call[pb.ConfirmDelegationRequest, pb.ConfirmDelegationResponse, Delegated]:
    request = pb.ConfirmDelegationRequest(delegation_id=delegation_id, confirmation_code=code)
    return Call(request, lambda response: _delegated(response.delegated), timeout=10.0)


def resume_after(error: errors.Unavailable, deadline: Deadline) -> float:
    """Seconds until a watch that broke is to be taken up again. Raises the error where no time is left."""
    pause = error.retry_after or 0.5
    if deadline.left() <= pause:
        raise error
    return pause


def get_token(
    brand: str,
    *,
    consumer: str | None,
    conversation: str | None,
    scopes: str | Iterable[str],
    min_ttl: float,
    rejected_token_version: str | None,
    include_id_token: bool,
    challenge: bool | ChallengeOptions,
) -> Call[pb.GetTokenRequest, pb.GetTokenResponse, Token]:
    request = pb.GetTokenRequest(
        brand_id=brand,
        context=context(consumer, conversation),
        scopes=scope_list(scopes),
        min_ttl=_duration(min_ttl) if min_ttl else None,
        rejected_token_version=rejected_token_version or "",
        include_id_token=include_id_token,
        challenge=_challenge_options(challenge),
    )
    return Call(request, _token, timeout=10.0)


def invalidate(
    brand: str, *, consumer: str | None, conversation: str | None
) -> Call[pb.InvalidateRequest, pb.InvalidateResponse, Revocation]:
    request = pb.InvalidateRequest(brand_id=brand, context=context(consumer, conversation))
    return Call(request, _revocation, timeout=10.0)


def context(consumer: str | None, conversation: str | None) -> pb.Context:
    if consumer is not None and conversation is None:
        return pb.Context(consumer=pb.ConsumerContext(consumer_id=consumer))
    if conversation is not None and consumer is None:
        return pb.Context(conversation=pb.ConversationContext(conversation_id=conversation))
    raise TypeError("give exactly one of consumer= and conversation=")


def scope_list(scopes: str | Iterable[str]) -> list[str]:
    return scopes.split() if isinstance(scopes, str) else list(scopes)  # RFC 6749 section 3.3


def _challenge_options(wanted: bool | ChallengeOptions) -> pb.ChallengeOptions | None:
    if not wanted:
        return None
    options = ChallengeOptions() if wanted is True else wanted
    return pb.ChallengeOptions(scopes=scope_list(options.scopes), redirect_uri=options.redirect_uri or "")


def _challenge(response: pb.StartDelegationResponse) -> Challenge:
    return Challenge(response.delegation_id, response.authorization_url, _time(response.expire_time))


def _delegated(response: pb.CompleteDelegationResponse) -> Delegated:
    context = response.context
    return Delegated(
        brand=response.brand_id,
        consumer=context.consumer.consumer_id or None,
        conversation=context.conversation.conversation_id or None,
        granted_scopes=tuple(response.granted_scopes),
        subject=response.subject or None,
        access_token_expire_time=_optional_time(response, "access_token_expire_time"),
        session_expire_time=_optional_time(response, "session_expire_time"),
        confirmation=Confirmation(response.confirmation.code, _time(response.confirmation.expire_time))
        if response.HasField("confirmation")
        else None,
    )


def _outcome(delegation_id: str, response: pb.WatchDelegationResponse) -> Delegated:
    """What was delegated. Raises what came of it instead, and Unavailable for a stream without an end."""
    if is_news(response):
        raise confirmation_required(delegation_id, _time(response.expire_time))
    if response.status == pb.DELEGATION_STATUS_COMPLETED:
        return _delegated(response.delegated)
    if response.status == pb.DELEGATION_STATUS_EXPIRED:
        raise errors.DelegationExpired(
            "the consumer did not come back, or bring the code, in time: start a new delegation"
        )
    if response.status in (pb.DELEGATION_STATUS_DENIED, pb.DELEGATION_STATUS_FAILED):
        known = reasons.ErrorReason.DESCRIPTOR.values_by_number.get(response.reason)
        raise failure(known.name.removeprefix("ERROR_REASON_") if known else None)
    raise errors.Unavailable("the sidecar stopped telling what becomes of the delegation: watch it again")


def _token(response: pb.GetTokenResponse) -> Token:
    return Token(
        access_token=response.access_token,
        token_type=response.token_type,
        expire_time=_optional_time(response, "expire_time"),
        scopes=tuple(response.scopes),
        token_version=response.token_version,
        id_token=response.id_token or None,
        degraded=response.degraded,
    )


def _revocation(response: pb.InvalidateResponse) -> Revocation:
    known = pb.Revocation.DESCRIPTOR.values_by_number.get(response.revocation)
    return Revocation(known.name.removeprefix("REVOCATION_")) if known else Revocation.UNSPECIFIED


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def _time(timestamp: Timestamp) -> datetime:
    return timestamp.ToDatetime(tzinfo=UTC)


def _optional_time(response: Message, field: str) -> datetime | None:
    return _time(getattr(response, field)) if response.HasField(field) else None
