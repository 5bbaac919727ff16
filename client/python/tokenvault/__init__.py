"""Client of the token vault sidecar: delegated OAuth 2.0 access tokens over gRPC and mutual TLS.

    with TokenVaultClient.from_environment() as vault:
        token = vault.get_token("acme", conversation="c-42")

`tokenvault.errors` draws the tree of what a call can raise.
"""

from tokenvault.aio import AsyncTokenVaultClient
from tokenvault.aio import PendingChallenge as AsyncPendingChallenge
from tokenvault.client import PendingChallenge, TokenVaultClient
from tokenvault.credentials import ClientCredentials
from tokenvault.errors import (
    AccessDenied,
    AuthorizationDenied,
    AuthorizationServerMisconfigured,
    AuthorizationServerUnavailable,
    BearerInvalid,
    CodeRejected,
    ConfirmationCodeWrong,
    ConfirmationRequired,
    ConsentRequired,
    CredentialsRefused,
    CredentialsUnavailable,
    DeadlineExceeded,
    DelegationExpired,
    DelegationFailed,
    FieldViolation,
    GrantExpired,
    GrantNotFound,
    InternalError,
    InvalidIdToken,
    InvalidRequest,
    IssuerMismatch,
    PolicyDenied,
    RateLimited,
    ScopeNotGranted,
    SessionEnded,
    StateNotFound,
    StoreUnavailable,
    SubjectMismatch,
    TokenVaultError,
    Unavailable,
    UnknownCaller,
    VaultUnreachable,
)
from tokenvault.models import Challenge, ChallengeOptions, Confirmation, Delegated, Revocation, Token
from tokenvault.source import AsyncTokenSource, TokenSource

__all__ = [
    "TokenVaultClient",
    "AsyncTokenVaultClient",
    "ClientCredentials",
    "TokenSource",
    "AsyncTokenSource",
    # answers
    "Challenge",
    "ChallengeOptions",
    "PendingChallenge",
    "AsyncPendingChallenge",
    "Delegated",
    "Confirmation",
    "Token",
    "Revocation",
    # errors
    "TokenVaultError",
    "ConsentRequired",
    "GrantNotFound",
    "GrantExpired",
    "SessionEnded",
    "ConfirmationRequired",
    "ConfirmationCodeWrong",
    "ScopeNotGranted",
    "DelegationFailed",
    "DelegationExpired",
    "StateNotFound",
    "AuthorizationDenied",
    "CodeRejected",
    "InvalidIdToken",
    "IssuerMismatch",
    "SubjectMismatch",
    "Unavailable",
    "AuthorizationServerUnavailable",
    "StoreUnavailable",
    "RateLimited",
    "VaultUnreachable",
    "CredentialsUnavailable",
    "AccessDenied",
    "UnknownCaller",
    "PolicyDenied",
    "BearerInvalid",
    "CredentialsRefused",
    "InvalidRequest",
    "FieldViolation",
    "AuthorizationServerMisconfigured",
    "InternalError",
    "DeadlineExceeded",
]
