"""The decision table, row by row, and the arithmetic around it."""

import itertools

import pytest

from tests.core.world import START as NOW
from tokenvault_sidecar.core.lifecycle import (
    BACKOFF_LAST,
    DECISIONS,
    Decision,
    Life,
    Redeem,
    Renewable,
    after_failure,
    backoff,
    decide,
    keeps_alive,
    may_redeem,
    purge_at,
    renew_at,
    renewal_margin,
)
from tokenvault_sidecar.core.model import ContextKind, Grant, Secret, Session, TokenSet
from tokenvault_sidecar.core.ports import Attempt

MARGIN = 60.0


def grant(
    kind: ContextKind = ContextKind.CONSUMER,
    *,
    left: float | None = 600.0,
    life: float = 1000.0,
    refresh: bool = True,
    session: float = 3600.0,
    idle: float = 3600.0,
    cap: float = 3600.0,
) -> Grant:
    end = None if left is None else NOW + left
    tokens = TokenSet(
        version="v1",
        access_token=Secret("a"),
        token_type="Bearer",
        scopes=("s",),
        issued_at=NOW if end is None else end - life,
        expires_at=end,
        refresh_token=Secret("r") if refresh and kind is ContextKind.CONSUMER else None,
    )
    if kind is ContextKind.CONVERSATION:
        return Grant("acme", kind, "f", tokens, ends_at=NOW + cap)
    return Grant("acme", kind, "f", tokens, session=Session(NOW + session, idle, NOW))


CONSUMER, CHAT = ContextKind.CONSUMER, ContextKind.CONVERSATION


@pytest.mark.parametrize(
    ("given", "min_ttl", "rejected", "expected"),
    [
        # any | has min_ttl left | serve
        (grant(), 0, False, Decision.SERVE),
        (grant(), 300, False, Decision.SERVE),
        (grant(refresh=False), 300, False, Decision.SERVE),
        (grant(left=None), 300, False, Decision.SERVE),
        (grant(CHAT), 300, False, Decision.SERVE),
        (grant(CHAT, left=5), 0, False, Decision.SERVE),
        (grant(CHAT, left=None), 300, False, Decision.SERVE),
        # consumer | inside the margin, still ≥ min_ttl | can renew | serve, renew in the background
        (grant(left=50), 0, False, Decision.SERVE_AND_RENEW),
        (grant(left=50), 49, False, Decision.SERVE_AND_RENEW),
        (grant(left=50, refresh=False), 0, False, Decision.SERVE),
        # consumer | less than min_ttl, or rejected | session alive, refresh token held | renew
        (grant(left=200), 300, False, Decision.RENEW),
        (grant(), 0, True, Decision.RENEW),
        (grant(left=None), 0, True, Decision.RENEW),
        (grant(left=0), 0, False, Decision.RENEW),
        (grant(left=-100), 0, False, Decision.RENEW),
        # consumer | expired | session over
        (grant(left=-100, session=-1), 0, False, Decision.SESSION_ENDED),
        (grant(left=-100, idle=0), 0, False, Decision.SESSION_ENDED),
        (grant(left=600, session=-1), 0, False, Decision.SESSION_ENDED),
        (grant(left=600, session=-1), 0, True, Decision.SESSION_ENDED),
        (grant(left=-100, session=-1, refresh=False), 0, False, Decision.SESSION_ENDED),
        # consumer | expired | no refresh token
        (grant(left=-1, refresh=False), 0, False, Decision.CONSENT_REQUIRED),
        (grant(left=200, refresh=False), 300, False, Decision.CONSENT_REQUIRED),
        (grant(refresh=False), 0, True, Decision.CONSENT_REQUIRED),
        # conversation | less than min_ttl, or rejected | never
        (grant(CHAT, left=200), 300, False, Decision.CONSENT_REQUIRED),
        (grant(CHAT), 0, True, Decision.CONSENT_REQUIRED),
        (grant(CHAT, left=-1), 0, False, Decision.CONSENT_REQUIRED),
        (grant(CHAT, cap=-1), 0, False, Decision.CONSENT_REQUIRED),
        (grant(CHAT, cap=100, left=None), 300, False, Decision.SERVE),
    ],
)
def test_decision(given: Grant, min_ttl: float, rejected: bool, expected: Decision) -> None:
    assert decide(given, min_ttl=min_ttl, rejected=rejected, margin=MARGIN, now=NOW) is expected


def test_the_table_has_a_row_for_whatever_can_be() -> None:
    lefts = (None, -1.0, 0.0, 1.0, 50.0, 400.0)
    for kind, left, refresh, session, min_ttl, rejected in itertools.product(
        ContextKind, lefts, (True, False), (-1.0, 30.0, 3600.0), (0.0, 100.0, 3600.0), (True, False)
    ):
        given = grant(kind, left=left, refresh=refresh, session=session, cap=session)
        decide(given, min_ttl=min_ttl, rejected=rejected, margin=MARGIN, now=NOW)


def test_only_consumers_are_ever_renewed() -> None:
    renewing = {Decision.RENEW, Decision.SERVE_AND_RENEW}
    for (kind, _, can), decision in DECISIONS.items():
        if decision in renewing:
            assert kind is CONSUMER
            assert can is Renewable.YES
    assert {life for _, life, _ in DECISIONS} == set(Life)


@pytest.mark.parametrize(("life", "margin"), [(1000.0, 60.0), (30.0, 6.0), (3.0, 0.6), (100.0, 20.0)])
def test_margin_is_a_fraction_of_a_short_life(life: float, margin: float) -> None:
    assert renewal_margin(grant(left=life, life=life), MARGIN) == pytest.approx(margin)


def test_a_token_is_asked_for_half_its_life_at_most() -> None:
    fresh = grant(left=30, life=30)
    assert decide(fresh, min_ttl=3600, rejected=False, margin=MARGIN, now=NOW) is Decision.SERVE
    aged = grant(left=14, life=30)
    assert decide(aged, min_ttl=3600, rejected=False, margin=MARGIN, now=NOW) is Decision.RENEW


def test_a_session_that_cuts_the_token_short_is_no_reason_to_renew() -> None:
    assert decide(grant(session=20), min_ttl=300, rejected=False, margin=MARGIN, now=NOW) is Decision.SERVE


def test_background_renewal_is_due_before_the_margin_spread_by_jitter() -> None:
    assert renew_at(grant(), margin=MARGIN, jitter=0.0) == NOW + 600 - 60
    assert renew_at(grant(), margin=MARGIN, jitter=0.5) == NOW + 600 - 90
    assert renew_at(grant(left=None), margin=MARGIN, jitter=0) is None
    assert renew_at(grant(refresh=False), margin=MARGIN, jitter=0) is None
    assert renew_at(grant(CHAT), margin=MARGIN, jitter=0) is None


def test_purge_is_due_when_the_grant_is_over() -> None:
    assert purge_at(grant(left=-5, session=100, idle=500)) == NOW + 100
    assert purge_at(grant(CHAT, left=10, cap=100)) == NOW + 10
    assert purge_at(grant(CHAT, left=None, cap=100)) == NOW + 100


def test_use_is_written_coarsely() -> None:
    assert keeps_alive(grant(idle=1000), NOW + 99) is None
    used = keeps_alive(grant(idle=1000), NOW + 101)
    assert used is not None
    assert used.session is not None
    assert used.session.last_used_at == NOW + 101
    assert keeps_alive(grant(idle=1000), NOW + 1001) is None  # over is over
    assert keeps_alive(grant(CHAT), NOW + 101) is None


@pytest.mark.parametrize(
    ("attempt", "token_over", "expected"),
    [
        (Attempt(), False, Redeem()),
        (Attempt(failures=3, retry_at=NOW - 1), False, Redeem()),
        (Attempt(failures=3, retry_at=NOW + 7), True, Redeem(wait=7)),
        (Attempt(failures=3, retry_at=NOW + 86400), True, Redeem()),  # a clock that jumped back
        (Attempt(unanswered=1), False, Redeem(wait=1.0)),
        (Attempt(unanswered=1), True, Redeem()),
        (Attempt(unanswered=2), True, Redeem(lost=True)),
        (Attempt(unanswered=2), False, Redeem(lost=True)),
    ],
)
def test_may_redeem(attempt: Attempt, token_over: bool, expected: Redeem) -> None:
    assert may_redeem(attempt, token_over=token_over, now=NOW) == expected


def test_backoff_doubles_up_to_its_limit() -> None:
    assert [backoff(n, 0.999999) for n in (0, 1, 2)] == pytest.approx([1, 2, 4], rel=1e-3)
    assert backoff(10_000, 0.999999) == pytest.approx(BACKOFF_LAST, rel=1e-3)
    assert backoff(0, 0.0) == 0.5


@pytest.mark.parametrize(("retry_after", "wait"), [(None, 0.5), (20.0, 20.0), (1e9, 3600.0), (-5.0, 0.5)])
def test_retry_after_is_honoured_within_reason(retry_after: float | None, wait: float) -> None:
    attempt = after_failure(
        Attempt(), reason="AS_UNAVAILABLE", ambiguous=False, retry_after=retry_after, jitter=0.0, now=NOW
    )
    assert attempt == Attempt(failures=1, retry_at=NOW + wait, reason="AS_UNAVAILABLE")


def test_only_an_ambiguous_failure_counts_as_unanswered() -> None:
    before = Attempt(unanswered=1, failures=1)
    args = {"reason": "AS_UNAVAILABLE", "retry_after": None, "jitter": 0.0, "now": NOW}
    assert after_failure(before, ambiguous=False, **args).unanswered == 1  # type: ignore[arg-type]
    assert after_failure(before, ambiguous=True, **args).unanswered == 2  # type: ignore[arg-type]
