"""What to do with a grant: pure decisions over grant, request and now. Use-cases act on them."""

from dataclasses import dataclass, replace
from enum import Enum, auto

from tokenvault_sidecar.core.model import ContextKind, Grant
from tokenvault_sidecar.core.ports import Attempt

MARGIN_FRACTION = 0.2
"""Of a token's life: the most the renewal margin takes, so that 30-second tokens work."""

BACKOFF_FIRST = 1.0
BACKOFF_LAST = 300.0
"""Seconds to wait after the first failure, doubled after each up to the last."""

RETRY_AFTER_LAST = 3600.0
"""The longest Retry-After that is honoured, in seconds."""

MAX_UNANSWERED = 2
"""Unanswered redemptions of one token version after which its refresh token is taken for lost."""


class Decision(Enum):
    """What GetToken does with a grant."""

    SERVE = auto()
    SERVE_AND_RENEW = auto()
    RENEW = auto()
    SESSION_ENDED = auto()
    CONSENT_REQUIRED = auto()


class Life(Enum):
    """How much life an access token has left, as seen by one request."""

    AMPLE = auto()
    IN_MARGIN = auto()
    SHORT = auto()
    """Valid, but less than min_ttl is left, or the brand's API rejected it."""
    OVER = auto()


class Renewable(Enum):
    """Whether a grant can be renewed."""

    YES = auto()
    NO = auto()
    SESSION_OVER = auto()


_CONSUMER, _CONVERSATION = ContextKind.CONSUMER, ContextKind.CONVERSATION

DECISIONS: dict[tuple[ContextKind, Life, Renewable], Decision] = {
    (_CONSUMER, Life.AMPLE, Renewable.YES): Decision.SERVE,
    (_CONSUMER, Life.AMPLE, Renewable.NO): Decision.SERVE,
    (_CONSUMER, Life.IN_MARGIN, Renewable.YES): Decision.SERVE_AND_RENEW,
    (_CONSUMER, Life.IN_MARGIN, Renewable.NO): Decision.SERVE,
    (_CONSUMER, Life.SHORT, Renewable.YES): Decision.RENEW,
    (_CONSUMER, Life.SHORT, Renewable.NO): Decision.CONSENT_REQUIRED,
    (_CONSUMER, Life.OVER, Renewable.YES): Decision.RENEW,
    (_CONSUMER, Life.OVER, Renewable.NO): Decision.CONSENT_REQUIRED,
    (_CONSUMER, Life.OVER, Renewable.SESSION_OVER): Decision.SESSION_ENDED,
    (_CONVERSATION, Life.AMPLE, Renewable.NO): Decision.SERVE,
    (_CONVERSATION, Life.IN_MARGIN, Renewable.NO): Decision.SERVE,
    (_CONVERSATION, Life.SHORT, Renewable.NO): Decision.CONSENT_REQUIRED,
    (_CONVERSATION, Life.OVER, Renewable.NO): Decision.CONSENT_REQUIRED,
}
"""The decision table. A session that is over makes the token OVER: no other row can meet SESSION_OVER."""


def decide(grant: Grant, *, min_ttl: float, rejected: bool, margin: float, now: float) -> Decision:
    """What GetToken does. `margin` is the configured renewal margin, spans in seconds."""
    return DECISIONS[
        grant.kind,
        life(grant, min_ttl=min_ttl, rejected=rejected, margin=margin, now=now),
        renewable(grant, now),
    ]


def life(grant: Grant, *, min_ttl: float, rejected: bool, margin: float, now: float) -> Life:
    """How much life the access token has left for this request."""
    until = grant.usable_until
    if until is not None and until <= now:
        return Life.OVER
    if rejected:
        return Life.SHORT
    # A consumer token cut short by its session gains nothing by renewal: its own end counts.
    end = grant.tokens.expires_at if grant.kind is ContextKind.CONSUMER else until
    if end is None:
        return Life.AMPLE
    if end - now < min(min_ttl, whole_life(grant, end) / 2):
        return Life.SHORT
    if end - now <= renewal_margin(grant, margin):
        return Life.IN_MARGIN
    return Life.AMPLE


def is_valid(grant: Grant, now: float) -> bool:
    """Whether the access token may still be served."""
    return grant.usable_until is None or grant.usable_until > now


def renewable(grant: Grant, now: float) -> Renewable:
    """Whether the grant can be renewed."""
    if grant.session is not None and grant.session.ends_at <= now:
        return Renewable.SESSION_OVER
    return Renewable.YES if grant.tokens.refresh_token is not None else Renewable.NO


def whole_life(grant: Grant, end: float) -> float:
    return max(end - grant.tokens.issued_at, 0.0)


def renewal_margin(grant: Grant, margin: float) -> float:
    """Seconds before its end in which a token is renewed: the configured margin, or less for a short life."""
    if grant.tokens.expires_at is None:
        return 0.0
    return min(margin, MARGIN_FRACTION * whole_life(grant, grant.tokens.expires_at))


def renew_at(grant: Grant, *, margin: float, jitter: float) -> float | None:
    """When background renewal is due: up to a margin before the margin. `jitter` is random in [0, 1)."""
    if grant.tokens.refresh_token is None or grant.tokens.expires_at is None:
        return None
    return grant.tokens.expires_at - renewal_margin(grant, margin) * (1 + jitter)


def purge_at(grant: Grant) -> float:
    """When the row is to be deleted: the session's end, or the end of a conversation's token."""
    end = grant.life_ends_at if grant.kind is ContextKind.CONSUMER else grant.usable_until
    if end is None:
        raise ValueError("a grant has a session or an end of its own")
    return end


def keeps_alive(grant: Grant, now: float) -> Grant | None:
    """The grant as used now, or None where that is not worth a write: a tenth of the idle limit is."""
    session = grant.session
    if session is None or session.ends_at <= now or now - session.last_used_at < session.idle / 10:
        return None
    return replace(grant, session=replace(session, last_used_at=now))


@dataclass(frozen=True, slots=True)
class Redeem:
    """Whether a refresh token may be redeemed: now, after `wait` seconds, or never again (`lost`)."""

    wait: float = 0.0
    lost: bool = False


def may_redeem(attempt: Attempt, *, token_over: bool, now: float) -> Redeem:
    """One redemption per token version; one more where an answer never came, once the token is over.

    A `retry_at` further away than any back-off is a clock that jumped, and is not waited for.
    """
    if attempt.unanswered >= MAX_UNANSWERED:
        return Redeem(lost=True)
    wait = (attempt.retry_at or now) - now
    if 0 < wait <= RETRY_AFTER_LAST:
        return Redeem(wait=wait)
    if attempt.unanswered and not token_over:
        return Redeem(wait=BACKOFF_FIRST)
    return Redeem()


def backoff(failures: int, jitter: float) -> float:
    """Seconds to wait after one failure more than `failures`; `jitter` in [0, 1)."""
    return min(BACKOFF_FIRST * 2.0 ** min(failures, 30), BACKOFF_LAST) * (0.5 + jitter / 2)


def after_failure(
    before: Attempt, *, reason: str, ambiguous: bool, retry_after: float | None, jitter: float, now: float
) -> Attempt:
    """The attempt after a redemption failed. `before` is as it was before the lease; `jitter` in [0, 1)."""
    wait = max(backoff(before.failures, jitter), min(retry_after or 0.0, RETRY_AFTER_LAST))
    return Attempt(
        unanswered=before.unanswered + (1 if ambiguous else 0),
        failures=before.failures + 1,
        retry_at=now + wait,
        reason=reason,
    )
