"""The link that goes with a token that cannot be given: one for all who ask, and not ever more of them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.core.world import ACME, ALICE, CHAT, World
from tests.fakes.memory_store import MemoryStore
from tokenvault_sidecar.core.challenges import DelegationRequest
from tokenvault_sidecar.core.consent import MOST
from tokenvault_sidecar.core.delegations import Challenge
from tokenvault_sidecar.core.errors import (
    AuthorizationDenied,
    InvalidRequest,
    PolicyDenied,
    RateLimited,
    ServerUnavailable,
)

WISH = DelegationRequest("acme", ALICE, "bot")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.settle()


async def ask(world: World, **wish: object) -> Challenge:
    return await world.consent.challenge(replace(WISH, **wish))  # type: ignore[arg-type]  # any field


async def test_the_link_works_and_is_the_same_until_it_is_used(world: World) -> None:
    first = await ask(world)
    assert await ask(world) == first
    assert await ask(world, scopes=("api:read", "openid"), redirect_uri=ACME.redirect_uris[0]) == first
    await world.complete(first.authorization_url.reveal())
    assert (await world.get()).access_token
    assert (await ask(world)).delegation_id != first.delegation_id


async def test_many_who_ask_at_once_get_one_link_in_another_process_too(world: World) -> None:
    links = await asyncio.gather(*(ask(world) for _ in range(50)))
    assert len({link.delegation_id for link in links}) == 1
    assert await ask(world.sibling()) == links[0]


@pytest.mark.parametrize(
    "wish",
    [
        {"caller": "kiosk"},
        {"scopes": ("openid",)},
        {"redirect_uri": ACME.redirect_uris[1]},
        {"context": CHAT},
        {"context": replace(ALICE, id="bob")},
    ],
    ids=str,
)
async def test_who_wishes_for_something_else_gets_another(world: World, wish: dict[str, object]) -> None:
    first = await ask(world)
    other = await ask(world, **wish)
    assert other.authorization_url != first.authorization_url
    assert await ask(world) == first
    assert await ask(world, **wish) == other


async def test_a_link_that_was_made_for_one_is_given_to_no_other(world: World) -> None:
    started = await world.delegations.start(WISH)
    assert (await ask(world)).delegation_id != started.delegation_id


async def test_a_link_that_was_declined_voided_or_is_soon_over_is_not_given_again(world: World) -> None:
    declined = await ask(world)
    with pytest.raises(AuthorizationDenied):
        await world.complete(declined.authorization_url.reveal(), code=None, error="access_denied")
    voided = await ask(world)
    assert voided != declined
    await world.tokens.invalidate("acme", ALICE)
    late = await ask(world)
    assert late != voided
    world.clock.advance(ACME.delegation_lifetime * 0.6)
    assert await ask(world) != late


async def test_links_are_no_more_than_some_in_the_time_that_one_works(world: World) -> None:
    for _ in range(MOST):
        await world.delegations.start(WISH)
    with pytest.raises(RateLimited) as caught:
        await ask(world)
    assert caught.value.retry_after == ACME.delegation_lifetime
    assert await ask(world, context=CHAT)  # another's are its own
    world.clock.advance(ACME.delegation_lifetime + 1)
    assert await ask(world)


async def test_what_starting_is_refused_for_is_told(world: World) -> None:
    with pytest.raises(InvalidRequest):
        await ask(world, redirect_uri="https://elsewhere.test/")
    with pytest.raises(PolicyDenied):
        await ask(world, askable=frozenset({"api:read"}))
    world.server.prepare_fault = ServerUnavailable("down")
    with pytest.raises(ServerUnavailable):
        await ask(world)


async def test_the_link_is_sealed_and_gone_once_it_has_been_used(world: World) -> None:
    link = await ask(world)
    assert isinstance(world.store, MemoryStore)
    (row,) = world.store.outcomes.values()
    opened = await world.vault.open_outcome(row)
    assert opened.link == link.authorization_url
    assert link.authorization_url.reveal() not in f"{opened!r} {row!r} {link!r}"
    assert b"https" not in row.sealed
    await world.complete(link.authorization_url.reveal())
    (row,) = world.store.outcomes.values()
    assert (await world.vault.open_outcome(row)).link is None
