"""From challenge to grant: behaviours 15 to 23."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.core.world import ALICE, CHAT, REDIRECT, World, permit_all
from tests.fakes.memory_store import MemoryStore
from tests.fakes.server import lost
from tokenvault_sidecar.core.errors import (
    AuthorizationDenied,
    CodeRejected,
    GrantNotFound,
    InvalidIdToken,
    InvalidRequest,
    IssuerMismatch,
    PolicyDenied,
    ServerMisconfigured,
    ServerUnavailable,
    StateNotFound,
    StoreUnavailable,
    SubjectMismatch,
    VaultError,
)
from tokenvault_sidecar.core.exchange import AuthorizationResponse
from tokenvault_sidecar.core.model import Context, ContextKind, Secret
from tokenvault_sidecar.core.ports import GrantRow
from tokenvault_sidecar.core.tokens import Revocation


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.settle()


async def test_the_link_asks_for_what_was_wanted(world: World) -> None:
    url = await world.challenge(ALICE, scopes=("openid", "api:write"), parameters={"login_hint": "a@b"})
    query = {k: v[0] for k, v in parse_qs(urlsplit(url).query).items()}
    assert query["redirect_uri"] == REDIRECT
    assert query["scope"] == "openid api:write"
    assert query["prompt"] == "consent"
    assert query["login_hint"] == "a@b"
    assert len(query["state"]) >= 43
    assert len(query["nonce"]) >= 43
    assert len(query["code_challenge"]) == 43
    again = parse_qs(urlsplit(await world.challenge(ALICE)).query)
    for name in ("state", "nonce", "code_challenge"):
        assert again[name][0] != query[name]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"brand": "nope"}, "brand_id"),
        ({"redirect_uri": "https://brand.test/callback/"}, "redirect_uri"),
        ({"redirect_uri": "https://evil.test/callback"}, "redirect_uri"),
        ({"scopes": ("openid", "admin")}, "scopes"),
        ({"parameters": {"acr_values": "x"}}, "authorization_parameters"),
        ({"scopes": ("api:read",), "expected_subject": "alice"}, "expected_subject"),
    ],
)
async def test_bad_requests_name_their_field(world: World, request_: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        await world.challenge(ALICE, **request_)
    assert error.value.field == field
    assert world.server.requests == []


async def test_default_scopes_are_held_against_the_callers_policy_too(world: World) -> None:
    with pytest.raises(PolicyDenied):
        await world.challenge(ALICE, askable=frozenset({"openid"}))
    await world.challenge(ALICE, askable=frozenset({"openid"}), scopes=("openid",))


async def test_a_kind_of_context_that_is_switched_off(world: World) -> None:
    brand = world.vault.brands["acme"]
    contexts = {ContextKind.CONSUMER: brand.contexts[ContextKind.CONSUMER]}
    world.vault.brands = {"acme": replace(brand, contexts=contexts)}
    with pytest.raises(InvalidRequest, match="switched off"):
        await world.challenge(CHAT)


async def test_a_consumer_delegates(world: World) -> None:
    delegated = await world.delegate(ALICE)
    assert delegated.brand == "acme"
    assert delegated.context == ALICE
    assert delegated.subject == "alice"
    assert delegated.scopes == ("openid", "api:read")
    assert delegated.access_token_expires_at == world.clock() + 300
    assert delegated.session_ends_at == world.clock() + 1800
    token = await world.get(ALICE, include_id_token=True)
    assert world.server.answers(token.access_token.reveal())
    assert token.id_token is not None


async def test_a_conversation_keeps_the_access_token_alone(world: World) -> None:
    delegated = await world.delegate(CHAT)
    assert delegated.subject is None
    assert delegated.session_ends_at is None
    stored = await world.vault.grant(world.vault.context_key("acme", CHAT))
    assert stored is not None
    _, grant = stored
    assert grant.tokens.refresh_token is None
    assert grant.tokens.id_token is None
    assert grant.subject is None


async def test_a_state_works_once(world: World) -> None:
    url = await world.challenge(ALICE)
    await world.complete(url)
    requests = len(world.server.requests)
    with pytest.raises(StateNotFound):
        await world.complete(url)
    assert len(world.server.requests) == requests


async def test_of_many_who_show_one_state_one_wins(world: World) -> None:
    url = await world.challenge(ALICE)
    results = await asyncio.gather(*(world.complete(url) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(r, ServerUnavailable | StateNotFound) for r in results) == 19
    assert world.server.requests == ["authorization_code"]


async def test_unknown_expired_and_foreign_states_are_refused_without_a_call(world: World) -> None:
    url = await world.challenge(ALICE)
    response = world.server.login(url)
    with pytest.raises(StateNotFound):
        await world.delegations.complete(
            replace(response, state=Secret("x" * 43)), caller="bot", permit=permit_all
        )
    with pytest.raises(StateNotFound):
        await world.delegations.complete(response, caller="other", permit=permit_all)
    world.clock.advance(601)
    with pytest.raises(StateNotFound):
        await world.delegations.complete(response, caller="bot", permit=permit_all)
    assert world.server.requests == []
    assert await world.row_of() is None


async def test_a_foreign_caller_does_not_use_up_the_state(world: World) -> None:
    response = world.server.login(await world.challenge(ALICE))
    with pytest.raises(StateNotFound):
        await world.delegations.complete(response, caller="other", permit=permit_all)
    await world.delegations.complete(response, caller="bot", permit=permit_all)


async def test_policy_is_asked_with_brand_and_kind_before_anything_outbound(world: World) -> None:
    def deny(brand: str, context: Context) -> None:
        raise PolicyDenied(f"{brand} {context.kind}")

    response = world.server.login(await world.challenge(CHAT))
    with pytest.raises(PolicyDenied, match="acme conversation"):
        await world.delegations.complete(response, caller="bot", permit=deny)
    assert world.server.requests == []


async def test_an_error_answer_is_a_typed_failure(world: World) -> None:
    for error, shown in (("access_denied", "access_denied"), ("<script>", "an unregistered error")):
        url = await world.challenge(ALICE)
        with pytest.raises(AuthorizationDenied, match=shown):
            await world.complete(url, code=None, error=error)
        with pytest.raises(StateNotFound):
            await world.complete(url)
    assert world.server.requests == []


async def test_iss_is_checked_when_sent_and_required_where_promised(world: World) -> None:
    for iss in ("https://evil.test", None, ""):
        url = await world.challenge(ALICE)
        with pytest.raises(IssuerMismatch):
            await world.complete(url, iss=iss)
    world.server.sends_iss = False
    await world.complete(await world.challenge(ALICE), iss=None)
    with pytest.raises(IssuerMismatch):
        await world.complete(await world.challenge(ALICE), iss="https://evil.test")
    assert world.server.requests == ["authorization_code"]


async def test_a_refused_code_leaves_nothing(world: World) -> None:
    with pytest.raises(CodeRejected):
        await world.complete(await world.challenge(ALICE), code=Secret("wrong"))
    assert await world.row_of() is None


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ({"access_token": None}, CodeRejected),
        ({"token_type": "DPoP"}, CodeRejected),
        ({"expires_in": 0}, CodeRejected),
        ({"expires_in": -1}, CodeRejected),
        ({"expires_in": "soon"}, CodeRejected),
        ({"id_token": None}, InvalidIdToken),
    ],
)
async def test_an_unusable_answer_leaves_nothing(
    world: World, override: dict[str, object], error: type[VaultError]
) -> None:
    world.server.overrides = override
    with pytest.raises(error):
        await world.delegate(ALICE)
    assert await world.row_of() is None


async def test_tokens_of_a_failed_delegation_are_revoked(world: World) -> None:
    with pytest.raises(SubjectMismatch):
        await world.delegate(ALICE, expected_subject="bob")
    await world.settle()
    assert [hint for hint, _ in world.server.revoked] == ["refresh_token", "access_token"]
    assert await world.row_of() is None


async def test_one_person_never_gets_anothers_account(world: World) -> None:
    await world.delegate(ALICE, account="alice")
    before = await world.row_of()
    with pytest.raises(SubjectMismatch):
        await world.delegate(ALICE, account="bob")
    assert await world.row_of() == before
    await world.delegate(ALICE, account="alice")
    assert await world.tokens.invalidate("acme", ALICE) is Revocation.QUEUED
    assert (await world.delegate(ALICE, account="bob")).subject == "bob"


async def test_a_server_that_did_not_act_may_be_asked_again(world: World) -> None:
    url = await world.challenge(ALICE)
    response = world.server.login(url)
    world.server.prepare_fault = ServerUnavailable("down")
    with pytest.raises(ServerUnavailable):
        await world.delegations.complete(response, caller="bot", permit=permit_all)
    world.server.prepare_fault = None
    world.server.faults.append(ServerUnavailable("503"))
    with pytest.raises(ServerUnavailable):
        await world.delegations.complete(response, caller="bot", permit=permit_all)
    await world.delegations.complete(response, caller="bot", permit=permit_all)


async def test_a_server_that_may_have_acted_may_not(world: World) -> None:
    response = world.server.login(await world.challenge(ALICE))
    world.server.late_faults.append(lost())
    with pytest.raises(ServerUnavailable):
        await world.delegations.complete(response, caller="bot", permit=permit_all)
    with pytest.raises(StateNotFound):
        await world.delegations.complete(response, caller="bot", permit=permit_all)


async def test_a_misconfigured_client_is_the_operators_problem(world: World) -> None:
    world.server.faults.append(ServerMisconfigured("invalid_client"))
    with pytest.raises(ServerMisconfigured):
        await world.delegate(ALICE)
    assert await world.row_of() is None


async def test_a_caller_that_goes_away_leaves_the_delegation_to_complete(world: World) -> None:
    world.server.gate = asyncio.Event()
    response = world.server.login(await world.challenge(ALICE))
    call = asyncio.create_task(world.delegations.complete(response, caller="bot", permit=permit_all))
    await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    world.server.gate.set()
    await world.settle()
    assert (await world.get(ALICE)).access_token


async def test_invalidate_voids_pending_delegations_of_that_context_only(world: World) -> None:
    mine, other = await world.challenge(ALICE), await world.challenge(CHAT)
    assert await world.tokens.invalidate("acme", ALICE) is Revocation.NOT_FOUND
    with pytest.raises(StateNotFound):
        await world.complete(mine)
    await world.complete(other)


async def test_invalidate_while_a_delegation_completes_leaves_no_grant(world: World) -> None:
    world.server.gate = asyncio.Event()
    response = world.server.login(await world.challenge(ALICE))
    call = asyncio.create_task(world.delegations.complete(response, caller="bot", permit=permit_all))
    await asyncio.sleep(0.01)
    gate, world.server.gate = world.server.gate, None
    await world.tokens.invalidate("acme", ALICE)
    gate.set()
    with pytest.raises(StateNotFound):
        await call
    await world.settle()
    assert await world.row_of() is None
    assert not any(world.server.answers(token) for token in world.server.access_tokens)


async def test_a_moved_context_key_moves_no_token(world: World) -> None:
    """Whoever can write the file points Alice's pending delegation at Mallory's row."""
    mallory = Context(ContextKind.CONSUMER, "mallory")
    response = world.server.login(await world.challenge(ALICE))
    assert isinstance(world.store, MemoryStore)
    (key,) = world.store.delegations
    row = world.store.delegations[key]
    theirs = world.vault.context_key("acme", mallory)
    world.store.delegations[key] = replace(row, context_key=theirs)
    await world.delegations.complete(response, caller="bot", permit=permit_all)
    with pytest.raises(GrantNotFound):
        await world.get(mallory)
    assert (await world.get(ALICE)).access_token


async def test_a_delegation_of_a_brand_no_longer_configured(world: World) -> None:
    response = world.server.login(await world.challenge(ALICE))
    world.vault.brands = {}
    with pytest.raises(StateNotFound):
        await world.delegations.complete(response, caller="bot", permit=permit_all)


def test_an_authorization_response_shows_nothing() -> None:
    assert "hush" not in repr(AuthorizationResponse(Secret("hush"), Secret("hush")))


async def test_a_grant_that_was_stored_but_not_told_so_is_kept() -> None:
    """A connection to the store breaks while it commits: the next try finds the grant there."""

    class Untold(MemoryStore):
        untold = True

        async def put_grant(self, row: GrantRow, **given: Any) -> bool:
            put = await super().put_grant(row, **given)
            if self.untold:
                self.untold = False
                raise StoreUnavailable("the connection broke", retry_after=1.0)
            return put

    store = Untold()
    world = World(store=store)
    await world.delegate(ALICE)
    assert (await world.get(ALICE)).access_token.reveal()
    assert not store.revocations
    await world.settle()
