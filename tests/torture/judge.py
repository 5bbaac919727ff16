"""What may happen to a grant when its sidecar is killed, and what may not.

Three witnesses: the server's log (what it was asked, issued and revoked), the
database after each kill (what was committed), and the bots (what was served).

Lost. A grant answers CONSENT_REQUIRED, and the answer to its last redemption
was committed. So every CONSENT_REQUIRED has to be excused by a token version
V and its refresh token R, as in `Excuse`:

- REPLAYED: the server had redeemed R for a process that was killed before it
  committed the answer (the database after that kill still has V), and the one
  redemption more was refused.
- UNANSWERED_TWICE: two processes were killed while they redeemed V (the
  database after the second kill says so): R is not sent a third time.
- ANSWER_LOST: as REPLAYED, but the process that was answered lives on and has
  logged that no answer came.

And at the end every grant whose stored refresh token is the newest that the
server issued in its family, and neither revoked nor unanswered twice, has to
give a token that the brand's API takes.

Dead token served as good. A family is *known to be dead* from the moment that
a sidecar has told anybody CONSENT_REQUIRED after the server had refused R as
a replay and revoked V's family, or that the database says so after a kill: V
stored without its refresh token. No call that begins later may be given a
token of that family. What a process was killed before it heard, no sidecar
can know: such tokens are counted, and not wrong. Nor are those that the
server ends up to a second early, as it counts in whole seconds. But a
token that the server never issued, that is over by its own `expire_time`, of
another consumer, refused by the brand's API without any of these reasons, or
older than one that was served before the call began (`history.py`) is wrong.

Shown twice. A refresh token is shown to the server at most twice, and twice
only if the process that did so first was killed, or has logged that no answer
came. Nobody hangs: each call ends within `PATIENCE`.
"""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from tests.authserver.oidc import sha256
from tests.torture.history import History
from tests.torture.ledger import Issued, Ledger
from tests.torture.stored import Stored
from tokenvault import Token
from tokenvault_sidecar.core.errors import StoreUnavailable
from tokenvault_sidecar.core.lifecycle import MAX_UNANSWERED

PATIENCE = 10.0
"""Seconds within which a call must end: the redemption's deadline, a peer's lease, and some."""

ACCESS_TOKEN_TTL = 4


class Excuse(StrEnum):
    """Why a grant needs consent, as the table says it."""

    REPLAYED = "the answer was not committed before the kill"
    UNANSWERED_TWICE = "killed twice while redeeming"
    ANSWER_LOST = "no answer came in time"


class Wrong(StrEnum):
    """What must not happen, as the table says it."""

    LOST = "grants lost"
    DEAD = "dead tokens served as good"
    STALE = "older tokens served after newer ones"
    FOREIGN = "tokens of another consumer, or of nobody"
    HUNG = "calls that hung"
    SHOWN_TWICE = "refresh tokens shown twice without a kill, or more often"
    UNREADABLE = "stored grants that could not be opened"
    OTHER = "unexpected errors"


class Process(Protocol):
    """A sidecar's. `name` is what the server's log calls it."""

    @property
    def name(self) -> str: ...

    @property
    def killed_at(self) -> float | None: ...

    def log(self) -> str:
        """What it said."""
        ...


class Database(Protocol):
    """What is committed."""

    def read(self, consumers: Iterable[str]) -> dict[str, Stored]:
        """The grants of those who have one. Raises StoreUnavailable where one is not authentic."""
        ...


@dataclass(frozen=True, slots=True)
class Served:
    """A token served to a bot. `began` and `ended` are the call's times."""

    consumer: str
    token: Token
    began: float
    ended: float


@dataclass(slots=True)
class Judge:
    """Hears what happened, counts, and notes what is wrong."""

    ledger: Ledger
    stored: Database
    processes: Mapping[str, Process]
    consumers: tuple[str, ...]
    counts: Counter[str] = field(default_factory=Counter)
    excuses: Counter[Excuse] = field(default_factory=Counter)
    wrongs: dict[Wrong, list[str]] = field(default_factory=dict)
    _at_kill: dict[str, dict[str, Stored]] = field(default_factory=dict)
    _twice: set[str] = field(default_factory=set)
    _known_dead: dict[str, float] = field(default_factory=dict)
    _histories: defaultdict[str, History] = field(default_factory=lambda: defaultdict(History))

    def wrong(self, kind: Wrong, what: str) -> None:
        """Note what must not happen; `what` tells whom and when, and holds no secret."""
        self.wrongs.setdefault(kind, []).append(f"{time.time():.3f} {what}")

    # what the bots see

    def served(self, served: Served) -> Issued | None:
        """A token was served. What it was issued with; None: by nobody."""
        consumer, token = served.consumer, served.token
        self.counts["tokens served"] += 1
        issued = self.ledger.issued(sha256(token.access_token))
        if issued is None:
            self.wrong(Wrong.FOREIGN, f"{consumer} got a token that was never issued")
            return None
        known = self._known_dead.get(issued.family)
        if known is not None and known < served.began:
            self.wrong(
                Wrong.DEAD, f"{consumer}: of a family known to be dead for {served.began - known:.3f} s"
            )
        if token.expire_time is None or token.expire_time.timestamp() <= served.began:
            self.wrong(Wrong.DEAD, f"{consumer}: over when it was asked for")
        elif token.expire_time.timestamp() > issued.time + ACCESS_TOKEN_TTL + PATIENCE:
            self.wrong(Wrong.DEAD, f"{consumer}: said to live longer than the server gave it")
        stale = self._histories[consumer].read(served.began, served.ended, issued.number)
        if stale is not None:
            self.wrong(Wrong.STALE, f"{consumer}: not the token served {stale:.3f} s before")
        return issued

    def accepted(self, served: Served, subject: str) -> None:
        """The brand's API took the token, as this subject's."""
        if subject != served.consumer:
            self.wrong(Wrong.FOREIGN, f"{served.consumer} got a token of {subject}")

    def refused(self, served: Served, issued: Issued) -> None:
        """The brand's API refused the token just now."""
        self.ledger.read()
        revoked = self.ledger.revoked.get(issued.family)
        # `iat` is the whole second of when the token was made, which is shortly before it was logged
        server_says_over = math.floor(issued.time - 1) + ACCESS_TOKEN_TTL <= time.time()
        if revoked is not None and revoked <= served.began:
            self.counts["served dead, before any sidecar was told"] += 1
        elif revoked is None and not server_says_over:
            self.wrong(
                Wrong.DEAD, f"{served.consumer}: refused {served.ended - issued.time:.3f} s after its issue"
            )
        else:
            self.counts["ended by the server while in use"] += 1

    def consent_required(self, consumer: str) -> None:
        """A sidecar said CONSENT_REQUIRED; nobody has delegated anew yet."""
        now = time.time()
        grant = self.stored.read([consumer]).get(consumer)
        self.ledger.read()
        issued = self.ledger.issued(grant.access_token) if grant else None
        if grant is None or issued is None:
            self.wrong(Wrong.LOST, f"{consumer}: nothing stored, or nothing the server issued")
            return
        excuse = self._excuse(consumer, grant, issued)
        if excuse is None:
            self.wrong(Wrong.LOST, f"{consumer}: {self._history(grant, issued)}")
            return
        self.excuses[excuse] += 1
        if excuse is Excuse.UNANSWERED_TWICE:
            if issued.refresh_token not in self.ledger.redemptions:
                self.counts["given up although the server had seen neither redemption"] += 1
        elif issued.family in self.ledger.revoked:
            self._known_dead.setdefault(issued.family, now)

    # what a kill leaves

    def killed(self, process: Process) -> None:
        """A sidecar was killed just now: look at what it has committed."""
        self.counts["kills"] += 1
        try:
            grants = self.stored.read(self.consumers)
        except StoreUnavailable as error:
            self.wrong(Wrong.UNREADABLE, error.message)
            return
        now = time.time()
        self.ledger.read()
        self._at_kill[process.name] = grants
        for grant in grants.values():
            if grant.unanswered >= MAX_UNANSWERED:
                self._twice.add(grant.version)
            issued = self.ledger.issued(grant.access_token)
            if issued is None:
                self.wrong(Wrong.FOREIGN, "a token is stored that was never issued")
            elif grant.refresh_token is None and grant.version not in self._twice:
                if issued.family in self.ledger.revoked:
                    self._known_dead.setdefault(issued.family, now)
            elif grant.unanswered:
                self.counts["grants caught in a redemption"] += 1

    def must_work(self) -> set[str]:
        """The consumers whose grants may not need consent now. To be asked when nothing runs."""
        self.ledger.read()
        return {
            consumer
            for consumer, grant in self.stored.read(self.consumers).items()
            if grant.refresh_token is not None
            and (family := self.ledger.families.get(grant.refresh_token)) is not None
            and self.ledger.newest[family] == grant.refresh_token
            and family not in self.ledger.revoked
            and grant.unanswered < MAX_UNANSWERED
        }

    # what the whole log says

    def look_back(self) -> None:
        """At the end: the rules that are about everything that was sent."""
        self.ledger.read()
        for redemptions in self.ledger.redemptions.values():
            self.counts["redemptions"] += len(redemptions)
            self.counts["redemptions answered with tokens"] += sum(r.answered_well for r in redemptions)
            if len(redemptions) == 1:
                continue
            self.counts["refresh tokens shown twice"] += 1
            first = self.processes[redemptions[0].by]
            died = first.killed_at is not None and redemptions[1].by != first.name
            if len(redemptions) > MAX_UNANSWERED or not (died or self._lost_an_answer(first)):
                times = ", ".join(f"{r.time:.3f} by {r.by}" for r in redemptions)
                self.wrong(Wrong.SHOWN_TWICE, times)
        for process in self.processes.values():
            if any(word in process.log() for word in ("Traceback", "defect")):
                self.wrong(Wrong.OTHER, f"process {process.name}:\n{process.log()[-1000:]}")

    def _excuse(self, consumer: str, grant: Stored, issued: Issued) -> Excuse | None:
        if grant.version in self._twice:
            return Excuse.UNANSWERED_TWICE
        redemptions = self.ledger.redemptions.get(issued.refresh_token, ())
        if len(redemptions) < 2 or not redemptions[0].answered_well:
            return None
        first = self.processes[redemptions[0].by]
        left = self._at_kill.get(first.name, {}).get(consumer)
        if left is not None and left.version == grant.version:
            return Excuse.REPLAYED
        return Excuse.ANSWER_LOST if self._lost_an_answer(first) else None

    def _lost_an_answer(self, process: Process) -> bool:
        return "ambiguous" in process.log()

    def _history(self, grant: Stored, issued: Issued) -> str:
        redemptions = self.ledger.redemptions.get(issued.refresh_token, ())
        shown = _join(
            f"{'redeemed' if r.answered_well else 'refused'} {r.time:.3f} by {r.by}" for r in redemptions
        )
        revoked = self.ledger.revoked.get(issued.family)
        family = "alive" if revoked is None else f"revoked {revoked:.3f}"
        return (
            f"version of {issued.time:.3f}, refresh token {shown or 'never shown'}, "
            f"unanswered {grant.unanswered}, family {family}"
        )


def _join(parts: Iterable[str]) -> str:
    return ", ".join(parts)
