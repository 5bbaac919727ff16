"""The judge finds what it is for: each rule broken once, and each excuse needed once."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import pytest

from tests.authserver.oidc import LogEntry, sha256
from tests.torture.judge import ACCESS_TOKEN_TTL, Excuse, Judge, Served, Wrong
from tests.torture.ledger import Ledger
from tests.torture.stored import Stored
from tokenvault import Token

ALICE = "alice"


@dataclass
class FakeProcess:
    name: str
    killed_at: float | None = None
    said: str = ""

    def log(self) -> str:
        return self.said


@dataclass
class Case:
    """One grant of Alice's. Refresh token `r1` came with access token `a1`, and so on."""

    entries: list[LogEntry] = field(default_factory=list)
    grants: dict[str, Stored] = field(default_factory=dict)
    first: FakeProcess = field(default_factory=lambda: FakeProcess("1"))
    second: FakeProcess = field(default_factory=lambda: FakeProcess("2"))

    def __post_init__(self) -> None:
        processes = {process.name: process for process in (self.first, self.second)}
        self.judge = Judge(Ledger(self), self, processes, (ALICE,))
        self.event("token", grant_type="authorization_code", access="a1", refresh="r1")

    def log_from(self, position: int) -> tuple[list[LogEntry], int]:
        return self.entries[position:], len(self.entries)

    def read(self, consumers: Iterable[str]) -> dict[str, Stored]:
        return self.grants

    def event(
        self,
        event: Literal["token", "grant_revoked"],
        *,
        grant_type: str | None = None,
        shown: str | None = None,
        by: str | None = None,
        access: str | None = None,
        refresh: str | None = None,
    ) -> None:
        self.entries.append(
            LogEntry(
                event=event,
                time=time.time(),
                status=200,
                family="f",
                by=by,
                grant_type=grant_type,
                presented=shown and sha256(shown),
                access_token=access and sha256(access),
                refresh_token=refresh and sha256(refresh),
            )
        )

    def redeem(self, by: str, *, access: str | None = None, refresh: str | None = None) -> None:
        """r1 is shown, and tokens are issued for it or not."""
        self.event("token", grant_type="refresh_token", shown="r1", by=by, access=access, refresh=refresh)

    def store(self, number: int = 1, *, refresh: bool = True, unanswered: int = 0) -> None:
        held = sha256(f"r{number}") if refresh else None
        self.grants[ALICE] = Stored(f"v{number}", sha256(f"a{number}"), held, unanswered)

    def kill(self, process: FakeProcess) -> None:
        process.killed_at = time.time()
        self.judge.killed(process)

    def replay(self) -> None:
        """r1 is shown again: the server ends the family, the sidecar the grant."""
        self.event("grant_revoked")
        self.redeem("2")
        self.store(refresh=False)

    def serve(self, token: str, *, lives: float = ACCESS_TOKEN_TTL) -> None:
        now = time.time()
        end = datetime.fromtimestamp(now + lives, UTC)
        self.judge.served(Served(ALICE, Token(token, "Bearer", end, (), "v", None, False), now, now))


@pytest.fixture
def case() -> Case:
    return Case()


def test_an_answer_that_was_not_committed_is_an_excuse(case: Case) -> None:
    case.store(unanswered=1)
    case.redeem("1", access="a2", refresh="r2")
    case.kill(case.first)
    case.replay()
    case.judge.consent_required(ALICE)
    case.judge.look_back()
    assert case.judge.excuses == {Excuse.REPLAYED: 1}
    assert not case.judge.wrongs


def test_an_answer_that_was_committed_is_no_excuse(case: Case) -> None:
    case.redeem("1", access="a2", refresh="r2")
    case.store(2)
    case.kill(case.first)
    case.store(2, refresh=False)
    case.judge.consent_required(ALICE)
    assert case.judge.wrongs.keys() == {Wrong.LOST}


def test_a_grant_given_up_without_a_kill_is_lost(case: Case) -> None:
    case.store()
    case.redeem("1", access="a2", refresh="r2")
    case.replay()
    case.judge.consent_required(ALICE)
    case.judge.look_back()
    assert case.judge.wrongs.keys() == {Wrong.LOST, Wrong.SHOWN_TWICE}


def test_two_kills_are_an_excuse(case: Case) -> None:
    for unanswered, process in enumerate((case.first, case.second), start=1):
        case.store(unanswered=unanswered)
        case.kill(process)
    case.store(refresh=False)
    case.judge.consent_required(ALICE)
    assert case.judge.excuses == {Excuse.UNANSWERED_TWICE: 1}
    assert not case.judge.wrongs


def test_an_answer_that_did_not_come_in_time_is_an_excuse(case: Case) -> None:
    case.first.said = "renewal outcome=ambiguous"
    case.store(unanswered=1)
    case.redeem("1", access="a2", refresh="r2")
    case.replay()
    case.judge.consent_required(ALICE)
    case.judge.look_back()
    assert case.judge.excuses == {Excuse.ANSWER_LOST: 1}
    assert not case.judge.wrongs


def test_no_grant_at_all_is_lost(case: Case) -> None:
    case.judge.consent_required(ALICE)
    assert case.judge.wrongs.keys() == {Wrong.LOST}


def test_the_token_of_a_replayed_family_is_dead_once_a_caller_was_told(case: Case) -> None:
    case.store(unanswered=1)
    case.redeem("1", access="a2", refresh="r2")
    case.kill(case.first)
    case.replay()
    case.serve("a1")
    assert not case.judge.wrongs
    case.judge.consent_required(ALICE)
    time.sleep(0.001)  # a later call is one that begins at a later time
    case.serve("a1")
    assert case.judge.wrongs.keys() == {Wrong.DEAD}


def test_the_token_of_a_replayed_family_is_dead_once_that_was_committed(case: Case) -> None:
    case.replay()
    case.kill(case.second)
    time.sleep(0.001)
    case.serve("a1")
    assert case.judge.wrongs.keys() == {Wrong.DEAD}


@pytest.mark.parametrize("lives", [-1.0, ACCESS_TOKEN_TTL + 60.0])
def test_a_token_served_over_or_for_too_long_is_dead(case: Case, lives: float) -> None:
    case.serve("a1", lives=lives)
    assert case.judge.wrongs.keys() == {Wrong.DEAD}


def test_a_young_token_that_the_api_refuses_is_dead(case: Case) -> None:
    now = time.time()
    token = Token("a1", "Bearer", datetime.fromtimestamp(now + 1, UTC), (), "v1", None, False)
    served = Served(ALICE, token, now, now)
    issued = case.judge.served(served)
    assert issued is not None
    case.judge.refused(served, issued)
    assert case.judge.wrongs.keys() == {Wrong.DEAD}


def test_an_older_token_after_a_newer_one_was_not_committed(case: Case) -> None:
    case.redeem("1", access="a2", refresh="r2")
    case.serve("a2")
    time.sleep(0.001)
    case.serve("a1")
    assert case.judge.wrongs.keys() == {Wrong.STALE}


def test_a_token_of_nobody(case: Case) -> None:
    case.serve("never issued")
    assert case.judge.wrongs.keys() == {Wrong.FOREIGN}


def test_a_token_of_another_consumer(case: Case) -> None:
    now = time.time()
    case.judge.accepted(Served(ALICE, Token("a1", "Bearer", None, (), "v1", None, False), now, now), "bob")
    assert case.judge.wrongs.keys() == {Wrong.FOREIGN}


def test_a_refresh_token_shown_three_times(case: Case) -> None:
    case.first.killed_at = case.second.killed_at = time.time()
    for by in ("1", "2", "2"):
        case.redeem(by)
    case.judge.look_back()
    assert case.judge.wrongs.keys() == {Wrong.SHOWN_TWICE}


def test_only_grants_that_nothing_happened_to_must_work(case: Case) -> None:
    case.store()
    assert case.judge.must_work() == {ALICE}
    case.store(unanswered=2)
    assert case.judge.must_work() == set()
    case.store(unanswered=1)
    case.redeem("1", access="a2", refresh="r2")
    assert case.judge.must_work() == set()
    case.store(2)
    assert case.judge.must_work() == {ALICE}
    case.event("grant_revoked")
    assert case.judge.must_work() == set()


def test_a_defect_in_a_log_is_noted(case: Case) -> None:
    case.first.said = "defect task=renewal"
    case.judge.look_back()
    assert case.judge.wrongs.keys() == {Wrong.OTHER}
