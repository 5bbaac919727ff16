"""What a code was exchanged for is kept until the store takes it, and told to who asks again."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.core.test_confirmation import GUARDED
from tests.core.world import ACME, ALICE, CHAT, World, permit_all
from tests.fakes.memory_store import MemoryStore
from tokenvault_sidecar.core import delegations
from tokenvault_sidecar.core.challenges import DelegationRequest
from tokenvault_sidecar.core.errors import (
    CodeRejected,
    GrantNotFound,
    Reason,
    ServerUnavailable,
    StateNotFound,
    StoreUnavailable,
    SubjectMismatch,
)
from tokenvault_sidecar.core.exchange import AuthorizationResponse
from tokenvault_sidecar.core.model import Brand, Context, Delegated, DelegationStatus, Secret
from tokenvault_sidecar.core.ports import DelegationRow, GrantRow, OutcomeRow

both = pytest.mark.parametrize("context", [ALICE, CHAT], ids=["consumer", "conversation"])
brands = pytest.mark.parametrize("brand", [ACME, GUARDED], ids=["at once", "by a code"])


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for the store is told to come again soon."""
    monkeypatch.setattr(delegations, "PATIENCE", 0.1)


@pytest.fixture
def brand() -> Brand:
    return ACME


class Store(MemoryStore):
    """Where it is `untold`, it does once more what it is asked, goes down, and says that it could not.

    Where it is `full`, it can be read, but no delegation's end be written.
    """

    untold = False
    full = False

    async def put_grant(self, row: GrantRow, **given: Any) -> bool:
        return self._tell(await super().put_grant(row, **given))

    async def change_taken(self, row: DelegationRow, **given: Any) -> bool:
        self._room()
        return self._tell(await super().change_taken(row, **given))

    async def set_outcome(self, row: OutcomeRow) -> bool:
        self._room()
        return self._tell(await super().set_outcome(row))

    def _room(self) -> None:
        if self.full:
            raise StoreUnavailable("the disk is full", retry_after=1.0)

    def _tell(self, done: bool) -> bool:
        if self.untold:
            self.untold, self.down = False, True
            raise StoreUnavailable("the connection broke", retry_after=1.0)
        return done


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def world(brand: Brand, store: Store) -> World:
    return World(brand=brand, store=store)


def sibling(world: World) -> World:
    peer = world.sibling()
    peer.vault.brands = world.vault.brands
    return peer


def show(world: World, response: AuthorizationResponse, caller: str = "bot") -> asyncio.Task[Delegated]:
    return asyncio.create_task(world.delegations.complete(response, caller=caller, permit=permit_all))


async def answered_while_away(world: World, response: AuthorizationResponse) -> asyncio.Task[Delegated]:
    """The store goes down while the authorization server answers."""
    assert isinstance(world.store, Store)
    world.server.gate = asyncio.Event()
    call = show(world, response)
    async with asyncio.timeout(10):
        while not world.server.requests:  # noqa: ASYNC110 a fake's plain state is awaited
            await asyncio.sleep(0.001)
    world.store.down = True
    gate, world.server.gate = world.server.gate, None
    gate.set()
    return call


async def not_heard(world: World) -> tuple[AuthorizationResponse, Delegated]:
    """A login of Alice's, and what was told of it without being heard."""
    response = world.server.login(await world.challenge(ALICE))
    done = await show(world, response)
    world.delegations.not_heard(response, done)
    await world.settle()
    return response, done


async def insist(world: World, response: AuthorizationResponse) -> Delegated:
    """Show it again for as long as that is asked for."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await show(world, response)
            except (StoreUnavailable, ServerUnavailable) as error:
                await asyncio.sleep(min(error.retry_after or 20.0, 0.01))


@both
@brands
@pytest.mark.parametrize("at_peer", [False, True], ids=["here", "at another"])
@pytest.mark.parametrize("untold", [False, True], ids=["not stored", "stored untold"])
async def test_an_answer_is_kept_and_told_to_who_asks_again(
    world: World, store: Store, context: Context, at_peer: bool, untold: bool
) -> None:
    response = world.server.login(await world.challenge(context))
    if untold:
        store.untold = True
        call = show(world, response)
    else:
        call = await answered_while_away(world, response)
    with pytest.raises(StoreUnavailable, match="repeat this call") as told:
        await call
    assert told.value.retry_after
    with pytest.raises(StoreUnavailable):
        await show(world, response)
    store.down = False
    asked = sibling(world) if at_peer else world
    with pytest.raises(StateNotFound):
        await show(asked, replace(response, code=Secret("guessed")), caller="another")
    done = await insist(asked, response)
    assert done.context == context
    if done.confirmation:
        outcome = await world.delegations.outcomes.get(world.vault.sealer.delegation_id(response.state))
        assert outcome is not None
        assert outcome.expires_at == done.confirmation.expires_at
        await world.delegations.confirmations.confirm(
            outcome.delegation_id, done.confirmation.code, caller="bot", permit=permit_all
        )
    assert world.server.answers((await world.get(context)).access_token.reveal())
    assert world.server.requests == ["authorization_code"]
    await world.settle()
    with pytest.raises(StateNotFound):  # a second time it is a replay
        await show(asked, response)
    assert not world.server.revoked


@brands
async def test_a_short_failure_is_waited_for(world: World, store: Store) -> None:
    response = world.server.login(await world.challenge(ALICE))
    call = await answered_while_away(world, response)
    async with asyncio.timeout(10):
        while not [name for name, _ in world.events.events if name == "delegation_unsaved"]:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    store.down = False
    assert (await call).subject == "alice"
    with pytest.raises(StateNotFound):
        await show(world, response)


@brands
@pytest.mark.parametrize("after", [3 * ACME.delegation_lifetime, 10 * 3600.0])
async def test_an_outage_longer_than_the_links_life(world: World, store: Store, after: float) -> None:
    response = world.server.login(await world.challenge(ALICE))
    with pytest.raises(StoreUnavailable):
        await (await answered_while_away(world, response))
    world.clock.advance(after)
    store.down = False
    peer = sibling(world)
    await peer.housekeeping.purge()
    await world.settle()
    await peer.housekeeping.purge()
    done = await insist(peer, response)
    if done.confirmation:
        assert done.confirmation.expires_at >= world.clock() + ACME.delegation_lifetime
    else:
        assert await world.get()


async def test_another_response_and_another_caller_are_told_nothing(world: World, store: Store) -> None:
    response = world.server.login(await world.challenge(ALICE))
    with pytest.raises(StoreUnavailable):
        await (await answered_while_away(world, response))
    store.down = False
    await world.settle()
    with pytest.raises(StateNotFound):
        await show(world, replace(response, code=Secret("guessed")))
    with pytest.raises(StateNotFound):
        await show(world, replace(response, code=None, error="access_denied"))
    with pytest.raises(StateNotFound):
        await show(world, response, caller="another")
    assert (await show(world, response)).subject == "alice"


@brands
async def test_invalidated_while_it_waited_nothing_is_left(world: World, store: Store) -> None:
    response = world.server.login(await world.challenge(ALICE))
    with pytest.raises(StoreUnavailable):
        await (await answered_while_away(world, response))
    store.down = False
    await sibling(world).tokens.invalidate("acme", ALICE)
    await world.settle()
    with pytest.raises(StateNotFound):
        await show(world, response)
    with pytest.raises(GrantNotFound):
        await world.get()
    assert not any(world.server.answers(token) for token in world.server.access_tokens)


@brands
async def test_one_who_went_away_may_show_it_again(world: World) -> None:
    response = world.server.login(await world.challenge(ALICE))
    world.server.gate = asyncio.Event()
    call = show(world, response)
    await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    with pytest.raises(ServerUnavailable, match="being completed"):
        await show(sibling(world), response)
    world.server.gate.set()
    assert (await insist(sibling(world), response)).subject == "alice"
    assert world.server.requests == ["authorization_code"]


@brands
async def test_what_was_told_to_nobody_is_told_again_once(world: World) -> None:
    response, done = await not_heard(world)
    assert await show(sibling(world), response) == done
    with pytest.raises(StateNotFound):
        await show(world, response)
    with pytest.raises(StateNotFound):
        await show(world, replace(response, code=Secret("guessed")))


@brands
async def test_one_who_goes_away_while_they_are_told_is_told_again(world: World, store: Store) -> None:
    """Whatever is under way when they go, and however often they come again."""
    response = world.server.login(await world.challenge(ALICE))
    for steps in range(100):
        call = show(world, response)
        for _ in range(steps):
            await asyncio.sleep(0)
        if call.done():
            break
        call.cancel()
        await asyncio.wait({call})
        if not call.cancelled():
            break
        await world.settle()
    assert 5 < steps < 99
    assert (await call).subject == "alice"


@brands
async def test_a_store_that_went_away_while_it_was_told(world: World, store: Store) -> None:
    """Nobody can know whether it noted that."""
    response, _ = await not_heard(world)
    store.untold = True
    with pytest.raises(StoreUnavailable):
        await show(world, response)
    store.down = False
    await world.settle()
    assert (await show(sibling(world), response)).subject == "alice"


@brands
async def test_what_could_not_be_told_is_told_once(world: World, store: Store) -> None:
    """Nothing waits to have it told again, where it was not told."""
    response, _ = await not_heard(world)
    store.full = True
    for _ in range(5):
        with pytest.raises(StoreUnavailable):
            await show(world, response)
        await world.settle()
    store.full = False
    assert (await show(sibling(world), response)).subject == "alice"
    await world.settle()
    with pytest.raises(StateNotFound):
        await show(world, response)


@brands
async def test_who_was_told_since_is_not_told_again_for_who_was_not(world: World) -> None:
    response, first = await not_heard(world)
    await show(world, response)
    world.delegations.not_heard(response, first)
    await world.settle()
    with pytest.raises(StateNotFound):
        await show(world, response)


@pytest.mark.parametrize("brand", [GUARDED])
async def test_no_code_is_told_that_is_worth_nothing_any_more(world: World) -> None:
    response, _ = await not_heard(world)
    world.clock.advance(GUARDED.delegation_lifetime + 1)
    with pytest.raises(StateNotFound):
        await show(world, response)


@pytest.mark.parametrize("brand", [GUARDED])
async def test_what_was_confirmed_meanwhile_stays_so(world: World) -> None:
    """The browser did not get the page, but the code was read."""
    challenge = await world.delegations.start(DelegationRequest("acme", ALICE, "bot"))
    response = world.server.login(challenge.authorization_url.reveal())
    done = await show(world, response)
    assert done.confirmation
    confirmations = world.delegations.confirmations
    confirming = confirmations.confirm(
        challenge.delegation_id, done.confirmation.code, caller="bot", permit=permit_all
    )
    world.delegations.not_heard(response, done)
    assert (await confirming).subject == "alice"
    await world.settle()
    outcome = await world.delegations.outcomes.get(challenge.delegation_id)
    assert outcome is not None
    assert outcome.status is DelegationStatus.COMPLETED
    assert await world.get()


async def test_a_refusal_is_told_at_once_and_noted_later(world: World, store: Store) -> None:
    response = world.server.login(await world.challenge(ALICE))
    call = await answered_while_away(world, replace(response, code=Secret("guessed")))
    with pytest.raises(CodeRejected):
        await call
    store.down = False
    await world.settle()
    outcome = await world.delegations.outcomes.get(world.vault.sealer.delegation_id(response.state))
    assert outcome is not None
    assert (outcome.status, outcome.reason) == (DelegationStatus.FAILED, Reason.CODE_REJECTED)
    assert not store.delegations
    with pytest.raises(StateNotFound):
        await show(world, response)


async def test_tokens_of_somebody_else_are_revoked_later(world: World, store: Store) -> None:
    response = world.server.login(await world.challenge(ALICE, expected_subject="bob"))
    with pytest.raises(SubjectMismatch):
        await (await answered_while_away(world, response))
    store.down = False
    await world.settle()
    assert not any(world.server.answers(token) for token in world.server.access_tokens)


async def test_a_code_that_was_not_used_is_given_back_later(world: World, store: Store) -> None:
    response = world.server.login(await world.challenge(ALICE))
    take = store.take_delegation

    async def take_and_go_down(key: bytes) -> int | None:
        taker = await take(key)
        store.down = True
        return taker

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "take_delegation", take_and_go_down)
        world.server.faults.append(ServerUnavailable("503"))
        with pytest.raises(ServerUnavailable):
            await show(world, response)
    store.down = False
    assert (await insist(sibling(world), response)).subject == "alice"


@pytest.mark.parametrize("brand", [GUARDED])
async def test_of_many_who_show_one_response_one_is_told_the_code(world: World, store: Store) -> None:
    response = world.server.login(await world.challenge(ALICE))
    await answered_while_away(world, response)
    store.down = False
    worlds = [sibling(world) for _ in range(4)]
    told = await asyncio.gather(*(insist(w, response) for w in worlds), return_exceptions=True)
    assert sum(isinstance(answer, Delegated) for answer in told) <= 1
    assert all(isinstance(answer, Delegated | StateNotFound) for answer in told)
