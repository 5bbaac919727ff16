"""What calls answer. Times are aware, in UTC; secrets and ids of people are not in any repr."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Challenge:
    """A link that asks a consumer for access.

    `authorization_url` is for the consumer's browser: it works once, until
    `expire_time`, and belongs in no log. `delegation_id` is no secret.
    """

    delegation_id: str
    authorization_url: str = field(repr=False)
    expire_time: datetime


@dataclass(frozen=True, slots=True)
class ChallengeOptions:
    """What a challenge that goes with a token which cannot be given asks for; both default to the brand's."""

    scopes: str | Iterable[str] = ()
    redirect_uri: str | None = None


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A confirmation code: for the page on which the consumer's login ends, and for nothing else."""

    code: str = field(repr=False)
    expire_time: datetime


@dataclass(frozen=True, slots=True)
class Delegated:
    """What the consumer has delegated.

    One of `consumer` and `conversation` is set: the context the delegation
    was started for. `subject` is who logged in, and `session_expire_time`
    when the session ends unless it is used before: consumers only.
    `access_token_expire_time` is None where the authorization server did not
    say. `confirmation` is there where `complete_delegation` has locked the
    grant: show the consumer its code in the browser they logged in with; the
    bot is told it by them, and brings it to `confirm_delegation`.
    """

    brand: str
    consumer: str | None = field(repr=False)
    conversation: str | None = field(repr=False)
    granted_scopes: tuple[str, ...]
    subject: str | None = field(repr=False)
    access_token_expire_time: datetime | None
    session_expire_time: datetime | None
    confirmation: Confirmation | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """A valid access token (RFC 6750).

    Stop using it at `expire_time`; None: unknown, use it until it is rejected.
    Should the brand's API answer 401, hand `token_version` to
    `get_token(rejected_token_version=…)`. `id_token` is there where it was
    asked for and may be had. `degraded`: the authorization server could not
    be reached, the token has less life left than was asked for.
    """

    access_token: str = field(repr=False)
    token_type: str
    expire_time: datetime | None
    scopes: tuple[str, ...]
    token_version: str
    id_token: str | None = field(repr=False)
    degraded: bool

    @property
    def authorization_header(self) -> str:
        """The Authorization header's value, "Bearer …"."""
        return f"{self.token_type} {self.access_token}"


class Revocation(StrEnum):
    """What becomes of forgotten tokens at the authorization server."""

    NOT_FOUND = "NOT_FOUND"
    """There was no grant."""
    QUEUED = "QUEUED"
    """They are deleted here and queued for revocation there (RFC 7009)."""
    NOT_SUPPORTED = "NOT_SUPPORTED"
    """They are deleted here; the server cannot revoke, so they end when they expire."""
    UNSPECIFIED = "UNSPECIFIED"
    """They are deleted here; the rest a newer sidecar says in words this client does not know."""
