"""One token for all: asked for once, renewed before it ends, replaced when it is rejected."""

import asyncio
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Queue

import pytest

from tokenvault import CredentialsRefused, CredentialsUnavailable, TokenVaultError
from tokenvault._keeper import Issued, TokenKeeper


@dataclass
class Endpoint:
    """Gives token-1, token-2 and so on, or fails as `failures` say; waits while it is `held`."""

    lifetime: float | None = 600.0
    asked: int = 0
    failures: list[Exception] = field(default_factory=list)
    open: threading.Event = field(default_factory=threading.Event)
    arrived: Queue[int] = field(default_factory=Queue)

    def __post_init__(self) -> None:
        self.open.set()

    def ask(self) -> Issued:
        self.asked += 1
        number = self.asked
        self.arrived.put(number)
        assert self.open.wait(30)
        if self.failures:
            raise self.failures.pop(0)
        return Issued(f"token-{number}", self.lifetime)


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keeper(endpoint: Endpoint, clock: Clock) -> TokenKeeper:
    return TokenKeeper(endpoint.ask, clock=clock)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_one_request_for_many_threads(endpoint: Endpoint, keeper: TokenKeeper) -> None:
    endpoint.open.clear()
    with ThreadPoolExecutor(50) as threads:
        asked = [threads.submit(keeper.token, 30) for _ in range(50)]
        endpoint.arrived.get(timeout=30)
        endpoint.open.set()
        assert {future.result(30) for future in asked} == {"token-1"}
    assert keeper.token(0) == "token-1"
    assert endpoint.asked == 1


async def test_one_request_for_many_tasks_and_threads(endpoint: Endpoint, keeper: TokenKeeper) -> None:
    endpoint.open.clear()
    asked = [asyncio.create_task(keeper.aio.token(30)) for _ in range(50)]
    thread = asyncio.create_task(asyncio.to_thread(keeper.token, 30))
    await asyncio.to_thread(endpoint.arrived.get, timeout=30)
    endpoint.open.set()
    assert set(await asyncio.gather(*asked, thread)) == {"token-1"}
    assert endpoint.asked == 1


async def test_who_goes_away_does_not_end_it_for_the_others(endpoint: Endpoint, keeper: TokenKeeper) -> None:
    endpoint.open.clear()
    gone, stays = (asyncio.create_task(keeper.aio.token(30)) for _ in range(2))
    await asyncio.to_thread(endpoint.arrived.get, timeout=30)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    endpoint.open.set()
    assert await stays == "token-1"


def test_it_outlives_an_event_loop(endpoint: Endpoint, keeper: TokenKeeper) -> None:
    endpoint.open.clear()
    with pytest.raises(CredentialsUnavailable):
        asyncio.run(keeper.aio.token(0.05))
    endpoint.open.set()
    assert asyncio.run(keeper.aio.token(30)) == "token-1"


@pytest.mark.parametrize(("lifetime", "margin"), [(600.0, 30.0), (60.0, 12.0), (1.0, 0.2)])
def test_renewed_before_it_ends_while_the_old_one_serves(
    endpoint: Endpoint, keeper: TokenKeeper, clock: Clock, lifetime: float, margin: float
) -> None:
    endpoint.lifetime = lifetime
    assert keeper.token(30) == "token-1"
    clock.now += lifetime - margin - 0.001
    assert keeper.token(0) == "token-1"
    assert endpoint.asked == 1
    endpoint.open.clear()
    clock.now += 0.002
    assert {keeper.token(0) for _ in range(5)} == {"token-1"}
    endpoint.open.set()
    until(lambda: keeper.token(0) == "token-2")
    assert endpoint.asked == 2


def test_what_has_ended_is_not_served(endpoint: Endpoint, keeper: TokenKeeper, clock: Clock) -> None:
    assert keeper.token(30) == "token-1"
    clock.now += 600
    assert keeper.token(30) == "token-2"


def test_without_a_lifetime_it_serves_until_it_is_rejected(
    endpoint: Endpoint, keeper: TokenKeeper, clock: Clock
) -> None:
    endpoint.lifetime = None
    assert keeper.token(30) == "token-1"
    clock.now += 10**9
    assert keeper.token(30) == "token-1"
    assert keeper.token(30, rejected="token-1") == "token-2"


def test_a_failed_renewal_costs_nothing_while_the_token_lives(
    endpoint: Endpoint, keeper: TokenKeeper, clock: Clock
) -> None:
    assert keeper.token(30) == "token-1"
    clock.now += 580
    endpoint.failures.append(CredentialsUnavailable("away"))
    assert keeper.token(0) == "token-1"
    until(lambda: all(thread.name != "tokenvault-credentials" for thread in threading.enumerate()))
    assert keeper.token(0) == "token-1"
    clock.now += 20
    endpoint.failures.append(CredentialsUnavailable("still away"))
    with pytest.raises(CredentialsUnavailable, match="still away"):
        keeper.token(30)


def test_a_rejected_token_is_replaced_once_for_all_who_say_so(
    endpoint: Endpoint, keeper: TokenKeeper, clock: Clock
) -> None:
    assert keeper.token(30) == "token-1"
    with ThreadPoolExecutor(20) as threads:
        newer = {*threads.map(lambda _: keeper.token(30, rejected="token-1"), range(20))}
    assert newer == {"token-2"}
    assert keeper.token(30, rejected="token-2") == "token-2", "not again so soon"
    clock.now += 10
    assert keeper.token(30, rejected="token-2") == "token-3"


@pytest.mark.parametrize(("said", "pause"), [(None, 1.0), (0.0, 1.0), (7.0, 7.0)])
def test_after_a_failure_it_is_not_asked_at_once(
    endpoint: Endpoint, keeper: TokenKeeper, clock: Clock, said: float | None, pause: float
) -> None:
    endpoint.failures.append(CredentialsRefused("no", retry_after=said))
    for _ in range(3):
        with pytest.raises(CredentialsRefused, match="no") as caught:
            keeper.token(30)
        assert caught.value.retry_after == said
    assert endpoint.asked == 1
    clock.now += pause
    assert keeper.token(30) == "token-2"


def test_each_who_waits_raises_its_own(endpoint: Endpoint, keeper: TokenKeeper) -> None:
    endpoint.failures.append(CredentialsRefused("no"))
    raised: list[TokenVaultError] = []
    for _ in range(10):
        with pytest.raises(CredentialsRefused) as caught:
            keeper.token(30)
        raised.append(caught.value)
    assert len({id(error) for error in raised}) == 10
    assert len({len(traceback.extract_tb(error.__traceback__)) for error in raised}) == 1


def test_a_defect_is_told_without_its_text(endpoint: Endpoint, keeper: TokenKeeper) -> None:
    endpoint.failures.append(RuntimeError("canary"))
    with pytest.raises(CredentialsUnavailable, match="failed: RuntimeError") as caught:
        keeper.token(30)
    assert "canary" not in "".join(traceback.format_exception(caught.value))


def test_who_cannot_wait_is_told_so(endpoint: Endpoint, keeper: TokenKeeper) -> None:
    endpoint.open.clear()
    with pytest.raises(CredentialsUnavailable, match="in time"):
        keeper.token(0)
    endpoint.open.set()
    assert keeper.token(30) == "token-1"
