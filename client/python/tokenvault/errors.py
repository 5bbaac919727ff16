"""What a call can fail with: one class per reason of the contract.

TokenVaultError
├── ConsentRequired                      challenge the consumer (again); catch this one
│   ├── GrantNotFound                    never delegated, invalidated, or purged
│   ├── GrantExpired                     the access token is over and cannot be renewed
│   └── SessionEnded                     the consumer's session is over
├── ConfirmationRequired                 ask the consumer for the code they were shown
├── ConfirmationCodeWrong                see tries_left
├── ScopeNotGranted                      more was asked for than was granted
├── DelegationFailed                     nothing was stored; start a new delegation
│   ├── DelegationExpired                the consumer did not come back in time
│   ├── StateNotFound
│   ├── AuthorizationDenied              most often: the consumer declined
│   ├── CodeRejected
│   ├── InvalidIdToken
│   ├── IssuerMismatch
│   └── SubjectMismatch
├── Unavailable                          waiting helps, see retry_after
│   ├── AuthorizationServerUnavailable
│   ├── StoreUnavailable
│   ├── RateLimited
│   ├── VaultUnreachable                 no sidecar, or TLS refused by either side
│   └── CredentialsUnavailable           no token for this service: its token endpoint does not answer
├── AccessDenied                         the configuration does not let this caller
│   ├── UnknownCaller
│   ├── PolicyDenied
│   ├── BearerInvalid
│   └── CredentialsRefused               no token for this service: its token endpoint refuses it
├── InvalidRequest                       see field_violations
├── AuthorizationServerMisconfigured     the operator's problem, costs no grant
├── InternalError                        a defect of the sidecar
└── DeadlineExceeded                     no answer in time: whether it was done is not known
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import grpc

from tokenvault.models import Challenge


class TokenVaultError(Exception):
    """A call failed.

    `message` is for the developer or operator; it holds no token, code or
    state. `reason` is the contract's ErrorReason without its prefix, as in
    "GRANT_NOT_FOUND", or None where the sidecar gave none, and `metadata`
    what it told besides. `retry_after` is in seconds, None where the sidecar
    did not say that waiting helps. A reason this client does not know becomes
    the class that fits `code`.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        retry_after: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.code = code
        self.retry_after = retry_after
        self.metadata = dict(metadata or {})


class ConsentRequired(TokenVaultError):
    """There is no token to give: challenge the consumer with `start_delegation`.

    After `get_token(…, challenge=True)` it has been started: `challenge` is
    the link to show.
    """

    challenge: Challenge | None = None


class GrantNotFound(ConsentRequired):
    """GRANT_NOT_FOUND: never delegated, invalidated, or purged."""


class GrantExpired(ConsentRequired):
    """CONSENT_REQUIRED: the access token is over and cannot be renewed.

    A conversation's, one without a refresh token, or one whose refresh token
    the authorization server refused.
    """


class SessionEnded(ConsentRequired):
    """SESSION_ENDED: the consumer's session is over."""


class ConfirmationRequired(TokenVaultError):
    """CONFIRMATION_REQUIRED: the consumer has logged in and was shown a confirmation code.

    Ask for it in the conversation, and give it to `confirm_delegation` with
    this `delegation_id`, until `expire_time`.
    """

    delegation_id: str = ""
    expire_time: datetime | None = None


class ConfirmationCodeWrong(TokenVaultError):
    """CONFIRMATION_CODE_WRONG: not the code that the consumer was shown."""

    @property
    def tries_left(self) -> int:
        """How many other codes may be tried. 0: the delegation is void, start a new one."""
        return int(self.metadata.get("tries_left", "0"))


class ScopeNotGranted(TokenVaultError):
    """SCOPE_NOT_GRANTED: more scopes were asked for than were granted."""


class DelegationFailed(TokenVaultError):
    """The delegation came to nothing, and nothing was stored: start a new one."""


class DelegationExpired(DelegationFailed):
    """The consumer did not come back before the link's end, or did not bring the code in time."""


class StateNotFound(DelegationFailed):
    """STATE_NOT_FOUND: the state is unknown, used, expired, or another caller's."""


class AuthorizationDenied(DelegationFailed):
    """AUTHORIZATION_DENIED: an error came instead of a code, most often because the consumer declined."""


class CodeRejected(DelegationFailed):
    """CODE_REJECTED: the authorization server refused the code, or gave no usable access token for it."""


class InvalidIdToken(DelegationFailed):
    """INVALID_ID_TOKEN: the id token is missing, forged, or not meant for this delegation."""


class IssuerMismatch(DelegationFailed):
    """ISSUER_MISMATCH: the authorization response came from another issuer (RFC 9207)."""


class SubjectMismatch(DelegationFailed):
    """SUBJECT_MISMATCH: somebody else logged in than this consumer before, or than expected."""


class Unavailable(TokenVaultError):
    """Not now. Try again, after `retry_after` seconds where that is given."""


class AuthorizationServerUnavailable(Unavailable):
    """AS_UNAVAILABLE: the authorization server timed out, failed, or is known to be down."""


class StoreUnavailable(Unavailable):
    """STORE_UNAVAILABLE: the sidecar's store cannot be read or written."""


class RateLimited(Unavailable):
    """RATE_LIMITED: this caller is over its limit."""


class VaultUnreachable(Unavailable):
    """No connection to the sidecar: not running, wrong address, or TLS refused by either side."""


class CredentialsUnavailable(Unavailable):
    """The token endpoint of `ClientCredentials` gave no answer. The sidecar was not asked."""


class AccessDenied(TokenVaultError):
    """This caller may not do this: for whoever configures the sidecar, or registers the client."""


class UnknownCaller(AccessDenied):
    """UNKNOWN_CALLER: no configured caller has this certificate's identity."""


class PolicyDenied(AccessDenied):
    """POLICY_DENIED: the caller's policy does not allow this call."""


class BearerInvalid(AccessDenied):
    """BEARER_INVALID: the bearer token is missing, invalid, or not this caller's."""


class CredentialsRefused(AccessDenied):
    """The token endpoint of `ClientCredentials` gave no bearer token. The sidecar was not asked."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field that is missing or wrong: its name in the proto, and what is wrong with it."""

    field: str
    description: str


class InvalidRequest(TokenVaultError):
    """INVALID_REQUEST: a field is missing or wrong; `field_violations` names it."""

    field_violations: tuple[FieldViolation, ...] = ()


class AuthorizationServerMisconfigured(TokenVaultError):
    """AS_MISCONFIGURED: it refuses the sidecar's client, or its metadata is unusable. For the operator."""


class InternalError(TokenVaultError):
    """INTERNAL: a defect of the sidecar; its log has the details."""


class DeadlineExceeded(TokenVaultError):
    """No answer within the timeout. Whether the sidecar did what was asked is not known."""
