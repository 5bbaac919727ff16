"""Watching a delegation: the present status, then exactly one final event, whoever completed it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.core.world import ALICE, CHAT, World, permit_all
from tests.fakes.memory_store import MemoryStore
from tests.fakes.server import lost
from tokenvault_sidecar.core import outcomes
from tokenvault_sidecar.core.challenges import DelegationRequest
from tokenvault_sidecar.core.delegations import Challenge
from tokenvault_sidecar.core.errors import (
    PolicyDenied,
    Reason,
    ServerUnavailable,
    StateNotFound,
    StoreUnavailable,
    VaultError,
)
from tokenvault_sidecar.core.model import Context, ContextKind, DelegationStatus, Outcome, Secret
from tokenvault_sidecar.core.outcomes import FINISHING, KEPT
from tokenvault_sidecar.core.ports import OutcomeRow

PENDING, AWAITING, COMPLETED, DENIED, FAILED, EXPIRED = DelegationStatus


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.settle()


async def begin(world: World, context: Context = ALICE) -> Challenge:
    return await world.delegations.start(DelegationRequest("acme", context, "bot"))


class Watching:
    """Somebody who watches, and what they have been told so far."""

    def __init__(self, world: World, challenge: Challenge, caller: str = "bot") -> None:
        self.told: list[Outcome] = []
        self._first = asyncio.Event()
        watch = world.delegations.outcomes.watch(challenge.delegation_id, caller=caller, permit=permit_all)

        async def listen() -> list[Outcome]:
            async for outcome in watch:
                self.told.append(outcome)
                self._first.set()
            return self.told

        self._task = asyncio.create_task(listen())

    async def begun(self, status: DelegationStatus = PENDING) -> "Watching":
        async with asyncio.timeout(10):
            await self._first.wait()
        assert [outcome.status for outcome in self.told] == [status]
        return self

    async def all(self) -> list[DelegationStatus]:
        async with asyncio.timeout(10):
            return [outcome.status for outcome in await self._task]


async def test_a_completed_delegation_is_told_with_what_was_delegated(world: World) -> None:
    challenge = await begin(world)
    watching = await Watching(world, challenge).begun()
    delegated = await world.complete(challenge.authorization_url.reveal())
    assert await watching.all() == [PENDING, COMPLETED]
    assert watching.told[-1].delegated == delegated
    assert await world.get()


async def test_watching_again_tells_the_final_status_alone(world: World) -> None:
    challenge = await begin(world, CHAT)
    await world.complete(challenge.authorization_url.reveal())
    for _ in range(2):
        assert await Watching(world, challenge).all() == [COMPLETED]


async def test_any_number_may_watch_and_one_that_goes_away_disturbs_no_other(world: World) -> None:
    challenge = await begin(world)
    first, second = await Watching(world, challenge).begun(), await Watching(world, challenge).begun()
    first._task.cancel()
    await world.complete(challenge.authorization_url.reveal())
    assert await second.all() == [PENDING, COMPLETED]


async def test_where_many_watch_each_looks_more_rarely(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "LOOKS", 1)
    challenges = [await begin(world, Context(ContextKind.CONSUMER, f"c-{number}")) for number in range(100)]
    watching = [await Watching(world, challenge).begun() for challenge in challenges]
    looks = 0
    look = world.store.get_outcome

    async def counted(key: bytes) -> OutcomeRow | None:
        nonlocal looks
        looks += 1
        return await look(key)

    monkeypatch.setattr(world.store, "get_outcome", counted)
    await asyncio.sleep(4 * outcomes.LOOK)
    assert looks <= len(watching)  # a first look of each, some of which may have looked before
    await world.complete(challenges[-1].authorization_url.reveal())  # woken all the same
    assert await watching[-1].all() == [PENDING, COMPLETED]


async def test_what_another_process_completes_is_told(world: World) -> None:
    challenge = await begin(world)
    watching = await Watching(world, challenge).begun()
    await world.sibling().complete(challenge.authorization_url.reveal())
    assert await watching.all() == [PENDING, COMPLETED]


async def test_one_that_declines_is_told_of(world: World) -> None:
    challenge = await begin(world)
    watching = await Watching(world, challenge).begun()
    with pytest.raises(VaultError):
        await world.complete(challenge.authorization_url.reveal(), code=None, error="access_denied")
    assert await watching.all() == [PENDING, DENIED]
    assert watching.told[-1].reason is Reason.AUTHORIZATION_DENIED


@pytest.mark.parametrize(
    ("failure", "reason"),
    [("refused code", Reason.CODE_REJECTED), ("lost answer", Reason.AS_UNAVAILABLE)],
)
async def test_one_that_fails_is_told_of_with_the_reason(world: World, failure: str, reason: Reason) -> None:
    challenge = await begin(world)
    watching = await Watching(world, challenge).begun()
    response = world.server.login(challenge.authorization_url.reveal(), "alice")
    if failure == "lost answer":
        world.server.late_faults.append(lost())
    else:
        response = replace(response, code=Secret("another"))
    with pytest.raises(VaultError):
        await world.delegations.complete(response, caller="bot", permit=permit_all)
    assert await watching.all() == [PENDING, FAILED]
    assert watching.told[-1].reason is reason


async def test_one_whose_code_was_not_used_is_still_pending(world: World) -> None:
    challenge = await begin(world)
    response = world.server.login(challenge.authorization_url.reveal(), "alice")
    world.server.faults.append(ServerUnavailable("away"))
    with pytest.raises(ServerUnavailable):
        await world.delegations.complete(response, caller="bot", permit=permit_all)
    watching = await Watching(world, challenge).begun()
    await world.delegations.complete(response, caller="bot", permit=permit_all)
    assert await watching.all() == [PENDING, COMPLETED]


async def test_one_that_is_tried_again_at_once_is_told_as_it_ends(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another process, before the first has told its caller that the code was not used."""
    challenge, again = await begin(world), world.sibling()
    response = world.server.login(challenge.authorization_url.reveal(), "alice")
    world.server.faults.append(ServerUnavailable("away"))
    give_back = world.store.give_back_delegation

    async def given_back_and_used(key: bytes, taker: int) -> bool:
        given = await give_back(key, taker)
        await again.delegations.complete(response, caller="bot", permit=permit_all)
        return given

    monkeypatch.setattr(world.store, "give_back_delegation", given_back_and_used)
    with pytest.raises(ServerUnavailable):
        await world.delegations.complete(response, caller="bot", permit=permit_all)
    assert await Watching(world, challenge).all() == [COMPLETED]


async def test_nobody_coming_back_in_time_is_told_as_expired(world: World) -> None:
    challenge = await begin(world)
    watching = await Watching(world, challenge).begun()
    world.clock.now = challenge.expires_at
    assert await watching.all() == [PENDING, EXPIRED]
    assert await Watching(world, challenge).all() == [EXPIRED]


async def test_one_taken_just_in_time_may_still_complete(world: World) -> None:
    challenge = await begin(world)
    row = next(iter(world.store.delegations.values()))  # type: ignore[attr-defined]  # a MemoryStore
    await world.store.take_delegation(row.key)
    world.clock.now = challenge.expires_at + 1.0
    watching = await Watching(world, challenge).begun()
    world.clock.advance(FINISHING)
    assert await watching.all() == [PENDING, EXPIRED]


@pytest.mark.parametrize("late", [1.0, FINISHING - 1.0])
async def test_one_who_came_back_in_time_is_not_purged_while_the_code_is_exchanged(
    world: World, late: float
) -> None:
    challenge = await begin(world)
    watching = await Watching(world, challenge).begun()
    world.clock.now = challenge.expires_at - 1.0
    world.server.gate = asyncio.Event()
    coming_back = asyncio.create_task(world.complete(challenge.authorization_url.reveal()))
    async with asyncio.timeout(10):
        while not world.server.requests:  # noqa: ASYNC110 a fake's plain state is awaited
            await asyncio.sleep(0.001)
    world.clock.advance(1.0 + late)
    await world.housekeeping.purge()
    world.server.gate.set()
    await coming_back
    assert await watching.all() == [PENDING, COMPLETED]


async def test_invalidating_the_context_ends_it(world: World) -> None:
    challenge = await begin(world)
    watching = await Watching(world, challenge).begun()
    await world.tokens.invalidate("acme", ALICE)
    assert await watching.all() == [PENDING, FAILED]
    assert watching.told[-1].reason is Reason.STATE_NOT_FOUND


async def test_it_is_for_its_caller_alone_and_policy_is_asked(world: World) -> None:
    challenge = await begin(world)
    with pytest.raises(StateNotFound):
        await Watching(world, challenge, caller="other").all()
    with pytest.raises(StateNotFound):
        await anext(world.delegations.outcomes.watch("nothing", caller="bot", permit=permit_all))

    def deny(brand: str, context: Context) -> None:
        assert (brand, context) == ("acme", ALICE)
        raise PolicyDenied("not yours")

    with pytest.raises(PolicyDenied):
        await anext(world.delegations.outcomes.watch(challenge.delegation_id, caller="bot", permit=deny))


async def test_stopping_ends_it_with_a_word_to_ask_again(world: World) -> None:
    watching = await Watching(world, await begin(world)).begun()
    world.delegations.outcomes.close()
    with pytest.raises(StoreUnavailable, match="watch again"):
        await watching.all()


async def test_an_outcome_is_sealed_and_purged(world: World) -> None:
    challenge = await begin(world)
    assert isinstance(world.store, MemoryStore)
    (row,) = world.store.outcomes.values()
    assert challenge.delegation_id.encode() not in row.key + row.sealed
    assert ALICE.id.encode() not in row.sealed
    world.clock.now = challenge.expires_at + FINISHING + KEPT + 1.0
    await world.housekeeping.purge()
    assert not world.store.outcomes
