"""What an answer of the token or revocation endpoint means, as tables (RFC 6749 section 5, RFC 7009).

The question behind every row: may the server have acted on the request? Then
a code or refresh token may be used up, and asking again is not safe. Authlib
does not ask it, and takes a refusal without an `error` for a token: all this is ours.
"""

from collections.abc import Mapping

from tokenvault_sidecar.adapters.http_client import Answer, Miss
from tokenvault_sidecar.core.errors import (
    AnswerLost,
    InvalidGrant,
    ServerMisconfigured,
    ServerUnavailable,
    VaultError,
)
from tokenvault_sidecar.core.ports import TokenAnswer

_MISSES: Mapping[Miss, tuple[type[VaultError], str]] = {
    Miss.UNSENT: (ServerUnavailable, "could not be reached; nothing was sent"),
    Miss.UNTRUSTED: (
        ServerMisconfigured,
        "presents a certificate that is not trusted: set ca_file, or have it present one this system trusts",
    ),
    Miss.LOST: (AnswerLost, "was asked and did not answer"),
}

_STATUSES: tuple[tuple[range, type[VaultError], str], ...] = (
    (range(300, 400), ServerMisconfigured, "redirects instead of answering: correct the endpoint's URL"),
    (range(408, 409), ServerUnavailable, "did not get the whole request in time"),
    (range(429, 430), ServerUnavailable, "has too many requests"),
    (range(500, 600), ServerUnavailable, "failed"),
)

_ERRORS: Mapping[str, tuple[type[VaultError], str]] = {
    "invalid_request": (ServerMisconfigured, "compare the brand's settings with its client registration"),
    "invalid_client": (ServerMisconfigured, "check client_id, client_auth, and the secret or key"),
    "unauthorized_client": (ServerMisconfigured, "have the client registered for this grant type"),
    "unsupported_grant_type": (ServerMisconfigured, "have the client registered for this grant type"),
    "invalid_scope": (ServerMisconfigured, "have the client registered for the scopes asked for"),
    "server_error": (ServerUnavailable, "it failed"),
    "temporarily_unavailable": (ServerUnavailable, "it is overloaded or in maintenance"),
}
_UNKNOWN_ERROR = (ServerMisconfigured, "compare the brand's settings with its client registration")


def read_token_answer(answer: Answer | Miss, *, brand: str, now: float) -> TokenAnswer:
    """The JSON object of a success, not looked at further.

    Raises ServerUnavailable, AnswerLost, ServerMisconfigured, InvalidGrant.
    """
    document = _success(answer)
    if document is None:
        raise failure(answer, brand=brand, now=now)
    return document


def is_revoked(answer: Answer | Miss) -> bool:
    """Whether nothing is left to revoke: done, unknown to the server, or of a kind it does not revoke."""
    if isinstance(answer, Miss):
        return False
    return 200 <= answer.status < 300 or _error(answer) in ("unsupported_token_type", "invalid_grant")


def failure(answer: Answer | Miss, *, brand: str, now: float) -> VaultError | InvalidGrant:
    """The error that an answer other than a success means."""
    server = f"the authorization server of brand {brand!r}"
    if isinstance(answer, Miss):
        kind, text = _MISSES[answer]
        return kind(f"{server} {text}")
    for statuses, kind, text in _STATUSES:
        if answer.status in statuses:
            return kind(f"{server} {text} (status {answer.status})", retry_after=_wait(kind, answer, now))
    error = _error(answer)
    if error is None:
        return AnswerLost(f"{server} gave an answer that cannot be read (status {answer.status})")
    if error == "invalid_grant":
        return InvalidGrant(f"{server} says invalid_grant")
    kind, text = _ERRORS.get(error, _UNKNOWN_ERROR)
    said = error if error in _ERRORS else "an unknown error"
    message = f"{server} says {said}: {text} (status {answer.status})"
    return kind(message, retry_after=_wait(kind, answer, now))


def _wait(kind: type[VaultError], answer: Answer, now: float) -> float | None:
    return answer.retry_after(now) if issubclass(kind, ServerUnavailable) else None


def _success(answer: Answer | Miss) -> TokenAnswer | None:
    if isinstance(answer, Miss) or not 200 <= answer.status < 300:
        return None
    document = answer.json_object()
    return None if document is None or _is_refusal(document) else document


def _is_refusal(document: Mapping[str, object]) -> bool:
    """Some servers send their errors with status 200."""
    return bool(document.get("error")) and not document.get("access_token")


def _error(answer: Answer) -> str | None:
    """The error code of a refusal, "" where it has none; None: the answer is no readable refusal."""
    document = answer.json_object()
    refused = 400 <= answer.status < 500 and answer.body is not None
    if not refused and (document is None or not _is_refusal(document)):
        return None
    error = (document or {}).get("error")
    return error if isinstance(error, str) else ""
