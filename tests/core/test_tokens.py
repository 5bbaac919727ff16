"""GetToken and Invalidate over fakes."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.core.world import ALICE, CHAT, World
from tests.fakes.memory_store import MemoryStore
from tokenvault_sidecar.core.errors import (
    ConsentRequired,
    GrantNotFound,
    InvalidRequest,
    PolicyDenied,
    ScopeNotGranted,
    ServerUnavailable,
    SessionEnded,
    StoreUnavailable,
)
from tokenvault_sidecar.core.model import Context, ContextKind
from tokenvault_sidecar.core.tokens import Revocation, TokenRequest


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.settle()


async def test_nothing_delegated(world: World) -> None:
    with pytest.raises(GrantNotFound):
        await world.get(ALICE)
    with pytest.raises(InvalidRequest):
        await world.tokens.get(TokenRequest("nope", ALICE))


async def test_a_fresh_token_costs_no_request(world: World) -> None:
    await world.delegate(ALICE)
    first, second = await world.get(ALICE), await world.get(ALICE)
    assert first.version == second.version
    assert first.expires_at == world.clock() + 300
    assert not first.degraded
    assert world.server.requests == ["authorization_code"]


async def test_an_expired_token_is_renewed(world: World) -> None:
    await world.delegate(ALICE)
    old = await world.get(ALICE)
    world.clock.advance(301)
    new = await world.get(ALICE)
    assert new.version != old.version
    assert world.server.answers(new.access_token.reveal())


async def test_a_rejected_version_is_renewed_once_for_all_who_report_it(world: World) -> None:
    await world.delegate(ALICE)
    old = await world.get(ALICE)
    new = await world.get(ALICE, rejected_version=old.version)
    again = await world.get(ALICE, rejected_version=old.version)
    assert new.version == again.version != old.version


async def test_inside_the_margin_it_is_served_and_renewed_behind(world: World) -> None:
    await world.delegate(ALICE)
    old = await world.get(ALICE)
    world.clock.advance(250)
    assert (await world.get(ALICE)).version == old.version
    await world.settle()
    assert (await world.get(ALICE)).version != old.version


async def test_a_server_that_is_down_degrades_what_still_lives(world: World) -> None:
    await world.delegate(ALICE)
    old = await world.get(ALICE)
    world.server.prepare_fault = ServerUnavailable("down")
    world.clock.advance(200)
    token = await world.get(ALICE, min_ttl=120)
    assert token.degraded
    assert token.version == old.version
    with pytest.raises(ServerUnavailable):
        await world.get(ALICE, rejected_version=old.version)
    world.clock.advance(200)
    with pytest.raises(ServerUnavailable) as error:
        await world.get(ALICE)
    assert error.value.retry_after


async def test_a_conversation_is_never_renewed(world: World) -> None:
    await world.delegate(CHAT)
    token = await world.get(CHAT)
    with pytest.raises(ConsentRequired):
        await world.get(CHAT, rejected_version=token.version)
    world.clock.advance(301)
    with pytest.raises(ConsentRequired):
        await world.get(CHAT)
    assert world.server.requests == ["authorization_code"]


async def test_a_conversations_token_is_unreadable_from_any_other(world: World) -> None:
    await world.delegate(CHAT)
    for other in (
        Context(ContextKind.CONVERSATION, "chat-2"),
        Context(ContextKind.CONSUMER, "chat-1"),
        ALICE,
    ):
        with pytest.raises(GrantNotFound):
            await world.get(other)


async def test_a_session_ends_by_idleness_and_absolutely(world: World) -> None:
    await world.delegate(ALICE)
    for _ in range(3):
        world.clock.advance(1000)
        await world.get(ALICE, keeps_session_alive=True)
        await world.settle()
    world.clock.advance(1000)
    await world.get(ALICE)  # a reader that does not keep it alive
    world.clock.advance(801)
    with pytest.raises(SessionEnded):
        await world.get(ALICE, keeps_session_alive=True)


async def test_a_session_ends_absolutely_however_much_it_is_used(world: World) -> None:
    await world.delegate(ALICE)
    for _ in range(43):
        world.clock.advance(1000)
        await world.get(ALICE, keeps_session_alive=True)
        await world.settle()
    world.clock.advance(201)
    with pytest.raises(SessionEnded):
        await world.get(ALICE, keeps_session_alive=True)


async def test_a_token_is_not_served_past_the_session(world: World) -> None:
    world.server.life = 7200
    await world.delegate(ALICE)
    assert (await world.get(ALICE)).expires_at == world.clock() + 1800
    world.clock.advance(1801)
    with pytest.raises(SessionEnded):
        await world.get(ALICE)


async def test_a_conversations_token_is_not_served_past_its_cap(world: World) -> None:
    world.server.life = 7200
    await world.delegate(CHAT)
    world.clock.advance(3601)
    with pytest.raises(ConsentRequired):
        await world.get(CHAT)


async def test_without_expires_in_it_is_served_until_rejected(world: World) -> None:
    world.server.life = None
    await world.delegate(ALICE)
    world.clock.advance(1700)
    token = await world.get(ALICE)
    assert token.expires_at is None
    assert (await world.get(ALICE, rejected_version=token.version)).version != token.version


async def test_no_refresh_token_means_consent_on_expiry(world: World) -> None:
    world.server.overrides = {"refresh_token": None}
    await world.delegate(ALICE)
    await world.get(ALICE)
    world.clock.advance(301)
    with pytest.raises(ConsentRequired):
        await world.get(ALICE)


async def test_scopes(world: World) -> None:
    await world.delegate(ALICE)
    await world.get(ALICE, scopes=("api:read",))
    with pytest.raises(ScopeNotGranted, match="api:write"):
        await world.get(ALICE, scopes=("api:read", "api:write"))
    with pytest.raises(PolicyDenied):
        await world.get(ALICE, releasable=frozenset({"api:read"}))
    await world.get(ALICE, releasable=frozenset({"api:read", "openid"}))


async def test_the_id_token_is_given_where_asked_for_and_valid(world: World) -> None:
    await world.delegate(ALICE)
    assert (await world.get(ALICE)).id_token is None
    first = (await world.get(ALICE, include_id_token=True)).id_token
    assert first is not None
    world.clock.advance(301)
    renewed = (await world.get(ALICE, include_id_token=True)).id_token
    assert renewed is not None
    assert renewed != first
    world.server.refreshed_id_tokens = False
    world.clock.advance(301)
    assert (await world.get(ALICE, include_id_token=True)).id_token == renewed
    world.clock.advance(301)
    assert (await world.get(ALICE, include_id_token=True)).id_token is None


async def test_invalidate_forgets_and_revokes_refresh_token_first(world: World) -> None:
    await world.delegate(ALICE)
    token = await world.get(ALICE)
    assert await world.tokens.invalidate("acme", ALICE) is Revocation.QUEUED
    with pytest.raises(GrantNotFound):
        await world.get(ALICE)
    await world.settle()
    assert [hint for hint, _ in world.server.revoked] == ["refresh_token", "access_token"]
    assert not world.server.answers(token.access_token.reveal())
    assert await world.tokens.invalidate("acme", ALICE) is Revocation.NOT_FOUND


async def test_a_tampered_grant_is_told_and_can_be_invalidated(world: World) -> None:
    await world.delegate(ALICE)
    assert isinstance(world.store, MemoryStore)
    (key,) = world.store.grants
    world.store.grants[key] = replace(world.store.grants[key], sealed=b"nonsense")
    with pytest.raises(StoreUnavailable, match="not authentic"):
        await world.get(ALICE)
    assert await world.tokens.invalidate("acme", ALICE) is Revocation.QUEUED
    with pytest.raises(GrantNotFound):
        await world.get(ALICE)


async def test_invalidate_where_the_server_cannot_revoke(world: World) -> None:
    world.server.revokes = False
    await world.delegate(CHAT)
    assert await world.tokens.invalidate("acme", CHAT) is Revocation.NOT_SUPPORTED
