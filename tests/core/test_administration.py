"""What operators see of grants, and how they end them, in a core beside the one that serves."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from tests.core.world import ALICE, CHAT, World
from tests.fakes.memory_store import MemoryStore
from tokenvault_sidecar.core.administration import PAGE, Administration
from tokenvault_sidecar.core.errors import GrantNotFound, StateNotFound
from tokenvault_sidecar.core.model import Context, ContextKind
from tokenvault_sidecar.core.ports import GrantRow
from tokenvault_sidecar.core.revocation import Revoker


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.settle()


def beside(world: World) -> Administration:
    other = world.sibling()
    return Administration(other.vault, Revoker(other.vault, works=False))


async def test_a_grant_is_shown_without_what_is_secret(world: World) -> None:
    await world.delegate(ALICE)
    token = await world.get(ALICE)
    facts = await beside(world).grant("acme", ALICE)
    assert facts is not None
    assert facts.readable
    assert facts.renews
    assert (facts.brand, facts.kind, facts.version) == ("acme", ContextKind.CONSUMER, token.version)
    assert facts.key == world.vault.context_key("acme", ALICE).hex()
    assert facts.issued_at == world.clock.now
    assert facts.expires_at == token.expires_at
    assert facts.ends_at == world.clock.now + 1800.0
    assert facts.scopes == token.scopes
    assert facts.renew_at is not None
    for secret in (token.access_token.reveal(), "alice"):
        assert secret not in repr(facts)
    assert await beside(world).grant("acme", CHAT) is None
    await world.delegate(CHAT)
    chat = await beside(world).grant("acme", CHAT)
    assert chat is not None
    assert not chat.renews


class CountingStore(MemoryStore):
    """Notes how many rows are asked for at once."""

    def __init__(self) -> None:
        super().__init__()
        self.limits: list[int] = []

    async def grants_after(self, key: bytes, *, brand: str | None, limit: int) -> Sequence[GrantRow]:
        self.limits.append(limit)
        return await super().grants_after(key, brand=brand, limit=limit)


async def test_all_grants_are_listed_once_a_page_at_a_time() -> None:
    store = CountingStore()
    world = World(store=store)
    await world.delegate(ALICE)
    (row,) = store.grants.values()
    for number in range(2 * PAGE):  # they do not open: they are listed all the same
        key = number.to_bytes(32, "big")
        store.grants[key] = replace(row, key=key, brand="acme" if number % 2 else "gone")
    listed = [facts async for facts in beside(world).grants()]
    assert [facts.key for facts in listed] == sorted(key.hex() for key in store.grants)
    assert [facts.key for facts in listed if facts.readable] == [row.key.hex()]
    assert store.limits == [PAGE] * 4
    assert len([facts async for facts in beside(world).grants("gone")]) == PAGE


async def test_what_is_invalidated_beside_is_revoked_by_who_serves(world: World) -> None:
    await world.delegate(ALICE)
    pending = await world.challenge(ALICE)
    assert await beside(world).invalidate("acme", ALICE)
    with pytest.raises(GrantNotFound):
        await world.get(ALICE)
    with pytest.raises(StateNotFound):
        await world.complete(pending)
    assert world.server.revoked == []
    (refresh_token, _) = await world.store.due_revocations(world.clock.now, limit=9)
    assert refresh_token.tries == 0
    await world.revoker.work()
    assert [hint for hint, _ in world.server.revoked] == ["refresh_token", "access_token"]
    assert not await beside(world).invalidate("acme", ALICE)


async def test_all_of_a_brand_is_invalidated_and_no_other(world: World) -> None:
    assert isinstance(world.store, MemoryStore)
    for number in range(PAGE + 5):
        await world.delegate(Context(ContextKind.CONSUMER, f"consumer-{number}"))
    await world.delegate(CHAT)
    pending = await world.challenge(ALICE)
    row = next(iter(world.store.grants.values()))
    other = replace(row, key=b"other".ljust(32), brand="other")
    world.store.grants[other.key] = other
    assert await beside(world).invalidate_all("acme") == PAGE + 6
    assert list(world.store.grants.values()) == [other]
    with pytest.raises(StateNotFound):
        await world.complete(pending)
    assert len(world.store.revocations) == 2 * (PAGE + 5) + 1
