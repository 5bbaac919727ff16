"""What can go wrong, in the words of the contract.

    VaultError
    ├── InvalidRequest          a field is missing or wrong
    ├── ConsentNeeded           challenge the consumer (again)
    │   ├── GrantNotFound
    │   ├── ConsentRequired
    │   └── SessionEnded
    ├── ScopeNotGranted
    ├── ConfirmationRequired    the consumer has to bring the code they were shown
    ├── ConfirmationCodeWrong
    ├── DelegationFailed        nothing was stored
    │   ├── StateNotFound
    │   ├── AuthorizationDenied
    │   ├── CodeRejected
    │   ├── InvalidIdToken
    │   ├── IssuerMismatch
    │   └── SubjectMismatch
    ├── ServerUnavailable       the authorization server; waiting helps
    │   └── AnswerLost          … and may have acted on what we sent
    ├── ServerMisconfigured     the operator's problem, costs no grant
    ├── UnknownCaller
    ├── PolicyDenied
    ├── BearerInvalid
    ├── RateLimited             waiting helps
    └── StoreUnavailable        waiting helps

`InvalidGrant` is no answer to a caller: use-cases turn it into one.
"""

from enum import StrEnum
from typing import ClassVar


class Reason(StrEnum):
    """The wire's reason: the proto's ErrorReason names without their prefix."""

    GRANT_NOT_FOUND = "GRANT_NOT_FOUND"
    CONSENT_REQUIRED = "CONSENT_REQUIRED"
    SESSION_ENDED = "SESSION_ENDED"
    SCOPE_NOT_GRANTED = "SCOPE_NOT_GRANTED"
    STATE_NOT_FOUND = "STATE_NOT_FOUND"
    AUTHORIZATION_DENIED = "AUTHORIZATION_DENIED"
    CODE_REJECTED = "CODE_REJECTED"
    INVALID_ID_TOKEN = "INVALID_ID_TOKEN"  # noqa: S105 a reason's name
    ISSUER_MISMATCH = "ISSUER_MISMATCH"
    SUBJECT_MISMATCH = "SUBJECT_MISMATCH"
    AS_UNAVAILABLE = "AS_UNAVAILABLE"
    AS_MISCONFIGURED = "AS_MISCONFIGURED"
    UNKNOWN_CALLER = "UNKNOWN_CALLER"
    POLICY_DENIED = "POLICY_DENIED"
    BEARER_INVALID = "BEARER_INVALID"
    RATE_LIMITED = "RATE_LIMITED"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    INVALID_REQUEST = "INVALID_REQUEST"
    INTERNAL = "INTERNAL"
    CONFIRMATION_REQUIRED = "CONFIRMATION_REQUIRED"
    CONFIRMATION_CODE_WRONG = "CONFIRMATION_CODE_WRONG"


class VaultError(Exception):
    """A failure told to the caller.

    `message` is for the person who reads it: what happened, to which brand,
    and what to do. It never holds a secret, an id of a consumer or
    conversation, or another exception's text. `retry_after` is in seconds,
    None where waiting does not help.
    """

    reason: ClassVar[Reason] = Reason.INTERNAL
    retry_after: float | None = None

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        if retry_after is not None:
            self.retry_after = retry_after


class InvalidRequest(VaultError):
    """A field of the request is missing or wrong; `field` is its name in the proto."""

    reason = Reason.INVALID_REQUEST

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class ConsentNeeded(VaultError):
    """There is no token to give: challenge the consumer."""


class GrantNotFound(ConsentNeeded):
    """Never delegated, invalidated, or purged."""

    reason = Reason.GRANT_NOT_FOUND


class ConsentRequired(ConsentNeeded):
    """The access token is over and cannot be renewed."""

    reason = Reason.CONSENT_REQUIRED


class SessionEnded(ConsentNeeded):
    """The consumer's session is over."""

    reason = Reason.SESSION_ENDED


class ScopeNotGranted(VaultError):
    """More was asked for than was granted."""

    reason = Reason.SCOPE_NOT_GRANTED


class ConfirmationRequired(VaultError):
    """The consumer has logged in, and may bring the code they were shown until `expires_at`."""

    reason = Reason.CONFIRMATION_REQUIRED

    def __init__(self, message: str, *, delegation_id: str, expires_at: float) -> None:
        super().__init__(message)
        self.delegation_id = delegation_id
        self.expires_at = expires_at


class ConfirmationCodeWrong(VaultError):
    """Not the code that was shown. `tries_left` others may be tried; none: the delegation is void."""

    reason = Reason.CONFIRMATION_CODE_WRONG

    def __init__(self, message: str, *, tries_left: int) -> None:
        super().__init__(message)
        self.tries_left = tries_left


class DelegationFailed(VaultError):
    """The delegation came to nothing, and nothing was stored."""


class StateNotFound(DelegationFailed):
    """Unknown, used, expired, or another caller's: which of these is not told."""

    reason = Reason.STATE_NOT_FOUND


class AuthorizationDenied(DelegationFailed):
    """The authorization server sent an error instead of a code (RFC 6749 section 4.1.2.1)."""

    reason = Reason.AUTHORIZATION_DENIED


class CodeRejected(DelegationFailed):
    """The code was refused, or the answer held no usable access token (RFC 6749 section 5)."""

    reason = Reason.CODE_REJECTED


class InvalidIdToken(DelegationFailed):
    """Missing, forged, or not meant for this delegation (OpenID Connect Core section 3.1.3.7)."""

    reason = Reason.INVALID_ID_TOKEN


class IssuerMismatch(DelegationFailed):
    """The authorization response came from another issuer (RFC 9207 section 2.4)."""

    reason = Reason.ISSUER_MISMATCH


class SubjectMismatch(DelegationFailed):
    """Somebody else logged in."""

    reason = Reason.SUBJECT_MISMATCH


class ServerUnavailable(VaultError):
    """The authorization server could not be asked, or said it could not answer.

    It has not acted on what was sent: asking again is safe.
    """

    reason = Reason.AS_UNAVAILABLE
    retry_after = 1.0


class AnswerLost(ServerUnavailable):
    """The request may have reached the authorization server and been acted on; no answer came back."""


class ServerMisconfigured(VaultError):
    """The authorization server refuses this client, or its metadata is unusable."""

    reason = Reason.AS_MISCONFIGURED


class UnknownCaller(VaultError):
    """No configured caller has this certificate's identity."""

    reason = Reason.UNKNOWN_CALLER


class PolicyDenied(VaultError):
    """The caller's policy does not allow this."""

    reason = Reason.POLICY_DENIED


class BearerInvalid(VaultError):
    """The bearer token is missing, invalid, or not this caller's."""

    reason = Reason.BEARER_INVALID


class RateLimited(VaultError):
    """The caller is over its limit."""

    reason = Reason.RATE_LIMITED
    retry_after = 1.0


class StoreUnavailable(VaultError):
    """The store cannot be read or written now."""

    reason = Reason.STORE_UNAVAILABLE
    retry_after = 1.0


class KeyUnwrappable(StoreUnavailable):
    """A new data key cannot be wrapped now: the KEK that wraps the others is away, or not given."""


class InvalidGrant(Exception):
    """The authorization server refused a code or refresh token (RFC 6749 section 5.2, invalid_grant)."""
