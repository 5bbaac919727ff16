"""A valid access token whenever it is asked: from memory, and from the sidecar only when it must be."""

import asyncio
import copy
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from datetime import UTC, datetime

from tokenvault.errors import DeadlineExceeded, TokenVaultError, Unavailable
from tokenvault.models import Token

_MARGIN = 30.0
_PAUSE = 1.0

_Outcome = Token | TokenVaultError | None
"""A token, why there is none, or None: who asked was interrupted, ask again."""


class TokenSource:
    """The tokens of one context, for any number of threads. Made by `TokenVaultClient.token_source`.

    A fresh token costs no call. Near its end, or once it was rejected, one
    call is made for all who ask, and all wait for it.
    """

    def __init__(self, ask: Callable[[str | None], Token]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._memory = _Memory()
        self._flight: Future[_Outcome] | None = None

    def token(self, *, rejected: str | None = None) -> Token:
        """A valid token. `rejected`: the token_version that the brand's API answered 401 to.

        Raises what `get_token` does, ConsentRequired above all. While the sidecar
        cannot be reached, the token that is held is given until its end.
        """
        while True:
            with self._lock:
                self._memory.reject(rejected)
                if fresh := self._memory.fresh():
                    return fresh
                leads, flight = self._flight is None, self._flight or Future()
                self._flight = flight
            if leads:
                self._fly(flight)
            outcome = flight.result()
            if isinstance(outcome, TokenVaultError):
                raise copy.copy(outcome)  # one object would collect the traces of all
            if outcome and not self._memory.refuses(outcome):
                return outcome

    def _fly(self, flight: "Future[_Outcome]") -> None:
        outcome: _Outcome = None
        reported = self._memory.rejected
        try:
            outcome = self._ask(reported)
        except TokenVaultError as failure:
            outcome = failure.with_traceback(None)
        finally:
            with self._lock:
                outcome = self._memory.settle(outcome, reported)
                self._flight = None
            flight.set_result(outcome)


class AsyncTokenSource:
    """As `TokenSource`, with `await`, for all tasks of one event loop."""

    def __init__(self, ask: Callable[[str | None], Awaitable[Token]]) -> None:
        self._ask = ask
        self._memory = _Memory()
        self._flight: asyncio.Task[_Outcome] | None = None

    async def token(self, *, rejected: str | None = None) -> Token:
        """As `TokenSource.token`. Who is cancelled ends the call for nobody else."""
        while True:
            self._memory.reject(rejected)
            if fresh := self._memory.fresh():
                return fresh
            if self._flight is None:
                self._flight = asyncio.create_task(self._fly())
            outcome = await asyncio.shield(self._flight)
            if isinstance(outcome, TokenVaultError):
                raise copy.copy(outcome)
            if outcome and not self._memory.refuses(outcome):
                return outcome

    async def _fly(self) -> _Outcome:
        outcome: _Outcome = None
        reported = self._memory.rejected
        try:
            outcome = await self._ask(reported)
        except TokenVaultError as failure:
            outcome = failure.with_traceback(None)
        finally:
            outcome = self._memory.settle(outcome, reported)
            self._flight = None
        return outcome


class _Memory:
    """The token that is held, until when it is fresh and alive, and the version that was rejected."""

    def __init__(self) -> None:
        self._held: Token | None = None
        self._fresh_until = self._ends_at = 0.0
        self.rejected: str | None = None

    def fresh(self) -> Token | None:
        return self._held if time.monotonic() < self._fresh_until else None

    def refuses(self, token: Token) -> bool:
        """Whether it was rejected while the call that brought it was under way."""
        return token.token_version == self.rejected

    def reject(self, version: str | None) -> None:
        if version is not None and self._held and self._held.token_version == version:
            self._held, self.rejected = None, version
            self._fresh_until = self._ends_at = 0.0

    def settle(self, outcome: _Outcome, reported: str | None) -> _Outcome:
        """Keep what came. Where the sidecar was not reached it is what is held, while that lives."""
        now = time.monotonic()
        if isinstance(outcome, Unavailable | DeadlineExceeded) and self._held and now < self._ends_at:
            self._fresh_until = min(now + _PAUSE, self._ends_at)
            return self._held
        if isinstance(outcome, Token):
            if self.rejected == reported:
                self.rejected = None
            if not self.refuses(outcome):
                self._keep(outcome, now)
        return outcome

    def _keep(self, token: Token, now: float) -> None:
        life = float("inf")
        if token.expire_time is not None:
            life = (token.expire_time - datetime.now(UTC)).total_seconds()
        fresh = 0.0 if token.degraded else life - min(_MARGIN, life / 5)
        self._held, self._ends_at = token, now + life
        self._fresh_until = now + max(fresh, min(_PAUSE, life))
