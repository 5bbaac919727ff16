"""What the authorization server did, by the hashes in its own log."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Protocol

from tests.authserver.oidc import LogEntry


class Log(Protocol):
    """An OidcProvider's."""

    def log_from(self, position: int) -> tuple[list[LogEntry], int]: ...


@dataclass(frozen=True, slots=True)
class Issued:
    """A token set the server issued: `number` counts them, `time` is when, tokens are hashes."""

    number: int
    time: float
    family: str
    refresh_token: str


@dataclass(frozen=True, slots=True)
class Redemption:
    """A refresh token shown to the server: by which sidecar process, and the refresh token issued for it."""

    by: str
    time: float
    issued: str | None

    @property
    def answered_well(self) -> bool:
        return self.issued is not None


class Ledger:
    """The server's log, read as far as `read` has come. `by` in the token endpoint's URL names the sender."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._position = 0
        self._issued = 0
        self.access_tokens: dict[str, Issued] = {}
        self.families: dict[str, str] = {}
        """Of refresh tokens."""
        self.newest: dict[str, str] = {}
        """The refresh token last issued in a family."""
        self.redemptions: defaultdict[str, list[Redemption]] = defaultdict(list)
        """Of each refresh token, in order."""
        self.revoked: dict[str, float] = {}
        """When a family was ended."""

    def read(self) -> None:
        """Take in what is new in the log."""
        entries, self._position = self._log.log_from(self._position)
        for entry in entries:
            if entry.event == "token":
                self._token(entry)
            elif entry.event == "grant_revoked" and entry.family:
                self.revoked.setdefault(entry.family, entry.time)

    def issued(self, access_token: str) -> Issued | None:
        """What an access token (its hash) was issued with; None: the server never did."""
        if access_token not in self.access_tokens:
            self.read()
        return self.access_tokens.get(access_token)

    def _token(self, entry: LogEntry) -> None:
        if entry.grant_type == "refresh_token" and entry.presented:
            redemption = Redemption(entry.by or "", entry.time, entry.refresh_token)
            self.redemptions[entry.presented].append(redemption)
        if entry.access_token and entry.refresh_token and entry.family:
            self._issued += 1
            issued = Issued(self._issued, entry.time, entry.family, entry.refresh_token)
            self.access_tokens[entry.access_token] = issued
            self.families[entry.refresh_token] = entry.family
            self.newest[entry.family] = entry.refresh_token
