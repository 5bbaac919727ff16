"""Keeps one access token for all who need it: one request for many, renewed before it ends."""

import asyncio
import copy
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import grpc

from tokenvault.errors import CredentialsUnavailable, TokenVaultError

_MARGIN = 30.0
_RETRY_PAUSE = 1.0
_REPLACE_PAUSE = 10.0

_Outcome = str | TokenVaultError
"""An access token, or why there is none. Not raised across threads: each who waits raises its own."""


@dataclass(frozen=True, slots=True)
class Issued:
    """An access token, and how long it lives in seconds; None: not said, it is used until it is rejected."""

    token: str = field(repr=False)
    lifetime: float | None


class TokenKeeper:
    """`ask` blocks, and ends by itself, with a new token or a TokenVaultError."""

    def __init__(self, ask: Callable[[], Issued], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._lock = threading.Lock()
        self._held: _Held | None = None
        self._flight: Future[_Outcome] | None = None
        self._failure: TokenVaultError | None = None
        self._retry_at = 0.0
        self._replace_at = 0.0
        self.aio = AsyncTokenKeeper(self)

    def token(self, timeout: float, *, rejected: str | None = None) -> str:
        """The token, `timeout` seconds from now at most; not the one that was `rejected`.

        Raises what `ask` does, and CredentialsUnavailable where it takes too long.
        """
        outcome = self.wanted(rejected)
        if isinstance(outcome, Future):
            try:
                outcome = outcome.result(timeout)
            except TimeoutError:
                outcome = _late()
        return _told(outcome)

    def wanted(self, rejected: str | None) -> "_Outcome | Future[_Outcome]":
        """What there is, or is to come; a request is begun where one is due.

        Due means: little life left, while the old token still serves; no token;
        or the one that is held was rejected. That brings a new one every ten
        seconds at most, and a failure the next request no sooner than a second
        later: a mistake in somebody's configuration floods no server.
        """
        with self._lock:
            now = self._clock()
            held = self._held
            if held and held.token == rejected and now >= self._replace_at:
                self._replace_at = now + _REPLACE_PAUSE
                held = self._held = None
            if held and now < held.renew_at:
                return held.token
            due: Future[_Outcome] | TokenVaultError
            if self._failure and now < self._retry_at:
                due = self._failure
            else:
                due = self._flight = self._flight or self._begin()
            return held.token if held and now < held.ends_at else due

    def _begin(self) -> "Future[_Outcome]":
        """A request in a thread of its own: who goes away does not end it for the others."""
        flight: Future[_Outcome] = Future()
        flight.set_running_or_notify_cancel()
        threading.Thread(target=self._fly, args=(flight,), name="tokenvault-credentials", daemon=True).start()
        return flight

    def _fly(self, flight: "Future[_Outcome]") -> None:
        asked_at = self._clock()
        outcome: Issued | TokenVaultError
        try:
            outcome = self._ask()
        except TokenVaultError as failure:
            outcome = failure.with_traceback(None)
        except Exception as defect:  # who waits must hear of it; its text may hold a secret
            outcome = _unavailable(f"asking for this service's access token failed: {type(defect).__name__}")
        with self._lock:
            self._flight = None
            if isinstance(outcome, Issued):
                self._failure = None
                self._held = _Held.of(outcome, asked_at)
            else:
                self._failure = outcome
                self._retry_at = self._clock() + max(_RETRY_PAUSE, outcome.retry_after or 0.0)
        flight.set_result(outcome.token if isinstance(outcome, Issued) else outcome)


class AsyncTokenKeeper:
    """A TokenKeeper for event loops, any number of them."""

    def __init__(self, keeper: TokenKeeper) -> None:
        self._keeper = keeper

    async def token(self, timeout: float, *, rejected: str | None = None) -> str:
        """As `TokenKeeper.token`."""
        outcome = self._keeper.wanted(rejected)
        if isinstance(outcome, Future):
            try:
                async with asyncio.timeout(timeout):
                    outcome = await asyncio.wrap_future(outcome)
            except TimeoutError:
                outcome = _late()
        return _told(outcome)


@dataclass(frozen=True, slots=True)
class _Held:
    token: str = field(repr=False)
    renew_at: float
    ends_at: float

    @classmethod
    def of(cls, issued: Issued, now: float) -> "_Held":
        life = float("inf") if issued.lifetime is None else issued.lifetime
        return cls(issued.token, now + life - min(_MARGIN, life / 5), now + life)


def _told(outcome: _Outcome) -> str:
    if isinstance(outcome, str):
        return outcome
    raise copy.copy(outcome)  # the one that is kept would collect the traces of all


def _late() -> TokenVaultError:
    return _unavailable("the token endpoint did not give this service its access token in time")


def _unavailable(message: str) -> TokenVaultError:
    return CredentialsUnavailable(message, code=grpc.StatusCode.UNAVAILABLE)
