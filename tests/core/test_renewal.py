"""Renewal over fakes: one redemption per token version, and nothing lost."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from tests.core.world import ALICE, CHAT, HandClock, Noted, World
from tests.fakes.memory_store import MemoryStore
from tests.fakes.server import lost
from tokenvault_sidecar.adapters.clock import SteadyClock
from tokenvault_sidecar.core.errors import (
    AnswerLost,
    ConsentRequired,
    GrantNotFound,
    ServerMisconfigured,
    ServerUnavailable,
    StoreUnavailable,
    VaultError,
)
from tokenvault_sidecar.core.model import Context, ContextKind
from tokenvault_sidecar.core.ports import Clock, Completion, GrantRow
from tokenvault_sidecar.core.renewal import RenewalSettings


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.delegate(ALICE)
    world.server.requests.clear()
    yield world
    await world.settle()


def expire(world: World) -> None:
    world.clock.advance(301)


async def attempt_of(world: World) -> tuple[int, int, str | None]:
    row = await world.row_of()
    assert isinstance(row, GrantRow)
    return row.attempt.unanswered, row.attempt.failures, row.attempt.reason


async def test_a_thousand_readers_cause_one_redemption(world: World) -> None:
    expire(world)
    tokens = await asyncio.gather(*(world.get() for _ in range(1000)))
    assert len({token.version for token in tokens}) == 1
    assert len(world.server.requests) == 1


async def test_a_thousand_reports_of_one_401_cause_one_redemption(world: World) -> None:
    old = (await world.get()).version
    tokens = await asyncio.gather(*(world.get(rejected_version=old) for _ in range(1000)))
    assert {token.version for token in tokens} != {old}
    assert len({token.version for token in tokens}) == 1
    assert len(world.server.requests) == 1


async def test_three_sidecars_on_one_store_cause_one_redemption(world: World) -> None:
    siblings = [world, world.sibling(), world.sibling()]
    expire(world)
    tokens = await asyncio.gather(*(sidecar.get() for sidecar in siblings * 50))
    assert len({token.version for token in tokens}) == 1
    assert len(world.server.requests) == 1


async def test_a_loser_gets_the_winners_result_not_the_leases_end(world: World) -> None:
    sibling = world.sibling()
    world.server.gate = asyncio.Event()
    expire(world)
    first = asyncio.create_task(world.get())
    await until(lambda: bool(world.server.requests))
    second = asyncio.create_task(sibling.get())
    await asyncio.sleep(0.05)
    assert not second.done()
    world.server.gate.set()
    assert (await first).version == (await second).version
    assert len(world.server.requests) == 1


async def test_a_caller_that_goes_away_does_not_stop_the_redemption(world: World) -> None:
    world.server.gate = asyncio.Event()
    expire(world)
    call = asyncio.create_task(world.get())
    await until(lambda: bool(world.server.requests))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    world.server.gate.set()
    await world.settle()
    assert world.server.answers((await world.get()).access_token.reveal())
    assert len(world.server.requests) == 1


async def test_a_caller_waits_no_longer_than_its_patience() -> None:
    world = World(settings=RenewalSettings(deadline=5.0, lease=10.0, patience=0.05))
    await world.delegate(ALICE)
    world.server.gate = asyncio.Event()
    expire(world)
    with pytest.raises(ServerUnavailable, match="longer than usual"):
        await world.get()
    world.server.gate.set()
    await world.settle()
    assert (await world.get()).access_token


async def test_an_answer_that_takes_too_long_is_ambiguous() -> None:
    world = World(settings=RenewalSettings(deadline=0.05, lease=10.0, patience=5.0))
    await world.delegate(ALICE)
    world.server.gate = asyncio.Event()
    expire(world)
    with pytest.raises(AnswerLost, match=r"did not answer in 0\.05 s"):
        await world.get()
    assert await attempt_of(world) == (1, 1, "AS_UNAVAILABLE")


# error classes, a row each: what is raised, what is recorded, and what the next read after the back-off does


@pytest.mark.parametrize(
    ("fault", "raised", "recorded", "later"),
    [
        (ServerUnavailable("503"), ServerUnavailable, (0, 1, "AS_UNAVAILABLE"), None),
        (ServerMisconfigured("invalid_client"), ServerMisconfigured, (0, 1, "AS_MISCONFIGURED"), None),
        (lost(), AnswerLost, (1, 1, "AS_UNAVAILABLE"), None),
    ],
)
async def test_failures_that_end_nothing(
    world: World,
    fault: VaultError,
    raised: type[VaultError],
    recorded: tuple[int, int, str],
    later: type[VaultError] | None,
) -> None:
    expire(world)
    world.server.faults.append(fault)
    with pytest.raises(raised):
        await world.get()
    assert await attempt_of(world) == recorded
    requests = len(world.server.requests)
    with pytest.raises(raised.__bases__[0] if raised is AnswerLost else raised):
        await world.get()  # backing off: no request
    assert len(world.server.requests) == requests
    world.clock.advance(2)
    assert (await world.get()).access_token
    assert await attempt_of(world) == (0, 0, None)


async def test_retry_after_is_honoured(world: World) -> None:
    expire(world)
    world.server.faults.append(ServerUnavailable("429", retry_after=120.0))
    with pytest.raises(ServerUnavailable) as error:
        await world.get()
    assert error.value.retry_after == 120.0
    world.clock.advance(119)
    with pytest.raises(ServerUnavailable) as error:
        await world.get()
    assert error.value.retry_after == pytest.approx(1.0)
    assert len(world.server.requests) == 1
    world.clock.advance(2)
    await world.get()


async def test_a_refused_refresh_token_ends_the_grant_and_is_never_sent_again(world: World) -> None:
    for family in world.server.refresh_tokens.values():
        family.alive = False
    expire(world)
    for _ in range(3):
        with pytest.raises(ConsentRequired):
            await world.get()
        world.clock.advance(400)
    assert len(world.server.requests) == 1
    grant = await world.vault.grant(world.vault.context_key("acme", ALICE))
    assert grant is not None
    assert grant[1].tokens.refresh_token is None


async def test_a_refused_refresh_token_leaves_the_access_token_to_serve(world: World) -> None:
    for family in world.server.refresh_tokens.values():
        family.alive = False
    world.clock.advance(200)
    with pytest.raises(ConsentRequired):
        await world.get(min_ttl=120)
    assert (await world.get()).access_token


async def test_a_rejected_access_token_that_cannot_be_renewed_is_over_for_all(world: World) -> None:
    old = (await world.get()).version
    for family in world.server.refresh_tokens.values():
        family.alive = False
    with pytest.raises(ConsentRequired):
        await world.get(rejected_version=old)
    with pytest.raises(ConsentRequired):
        await world.get()


async def test_an_ambiguous_answer_leaves_the_access_token_to_serve_then_one_redemption_more(
    world: World,
) -> None:
    old = (await world.get()).version
    world.clock.advance(200)
    world.server.faults.append(lost())
    assert (await world.get(min_ttl=120)).degraded
    world.clock.advance(50)
    for _ in range(3):
        assert (await world.get(min_ttl=60)).version == old
        await world.settle()
    assert len(world.server.requests) == 1
    world.clock.advance(100)
    assert (await world.get()).version != old
    assert len(world.server.requests) == 2


async def test_two_answers_lost_mean_consent(world: World) -> None:
    expire(world)
    world.server.faults.extend([lost(), lost()])
    for _ in range(2):
        with pytest.raises(AnswerLost):
            await world.get()
        world.clock.advance(10)
    for _ in range(2):
        with pytest.raises(ConsentRequired):
            await world.get()
    assert len(world.server.requests) == 2


async def test_a_replay_ends_the_access_token_too(world: World) -> None:
    """The server has revoked it with the family: it serves nobody, however long it was to live."""
    token = await world.get()
    world.server.late_faults.append(lost())
    with pytest.raises(AnswerLost):
        await world.get(rejected_version=token.version)
    world.clock.advance(2)
    with pytest.raises(ConsentRequired):
        await world.get(rejected_version=token.version)
    assert not world.server.answers(token.access_token.reveal())
    with pytest.raises(ConsentRequired):
        await world.get()


async def test_a_process_that_dies_while_redeeming_is_as_an_answer_lost(world: World) -> None:
    world.server.gate = asyncio.Event()  # never answers the one that dies
    expire(world)
    dead = asyncio.create_task(world.get())
    await until(lambda: bool(world.server.requests))
    world.server.gate.set()
    world.server.gate = None
    for task in list(world.background._tasks):
        task.cancel()
    await asyncio.gather(dead, return_exceptions=True)
    restarted = world.sibling()
    waiting = asyncio.create_task(restarted.get())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert len(world.server.requests) == 1
    world.clock.advance(31)  # the lease runs out
    assert (await waiting).access_token
    assert len(world.server.requests) == 2


async def test_the_answer_is_kept_in_memory_until_the_store_takes_it() -> None:
    store = BrokenStore()
    world = World(store=store, settings=RenewalSettings(deadline=5.0, lease=10.0, patience=0.2))
    store.lease_clock = world.clock
    await world.delegate(ALICE)
    expire(world)
    store.broken = True
    with pytest.raises((StoreUnavailable, ServerUnavailable)):
        await world.get()
    assert "refused" not in world.events.outcomes("renewal")
    store.broken = False
    await world.settle()
    token = await world.get()
    assert world.server.answers(token.access_token.reveal())
    assert len([r for r in world.server.requests if r.startswith("refresh")]) == 1


class BrokenStore(MemoryStore):
    """Takes leases, but adopts nothing while broken."""

    def __init__(self) -> None:
        self.lease_clock: Clock = HandClock()
        super().__init__(lease_clock=lambda: self.lease_clock())
        self.broken = False

    async def put_grant(
        self,
        row: GrantRow,
        *,
        replaces: str | None,
        owner: str | None = None,
        completes: Completion | None = None,
    ) -> bool:
        if self.broken:
            raise StoreUnavailable("the disk is full")
        return await super().put_grant(row, replaces=replaces, owner=owner, completes=completes)


async def test_a_late_answer_resurrects_nothing(world: World) -> None:
    world.server.gate = asyncio.Event()
    expire(world)
    call = asyncio.create_task(world.get())
    await until(lambda: bool(world.server.requests))
    await world.tokens.invalidate("acme", ALICE)
    world.server.gate.set()
    with pytest.raises(GrantNotFound):
        await call
    await world.settle()
    assert await world.row_of() is None
    assert not any(world.server.answers(token) for token in world.server.access_tokens)


async def test_a_late_answer_overwrites_no_new_delegation(world: World) -> None:
    world.server.gate = asyncio.Event()
    expire(world)
    call = asyncio.create_task(world.get())
    await until(lambda: bool(world.server.requests))
    gate, world.server.gate = world.server.gate, None
    await world.delegate(ALICE)
    renewed = (await world.get()).version
    gate.set()
    assert (await call).version == renewed
    await world.settle()
    assert (await world.get()).version == renewed
    assert [hint for hint, _ in world.server.revoked] == ["access_token"]


async def test_a_late_answer_judges_no_later_delegation(world: World) -> None:
    """Alice's renewal hangs, the context is invalidated, Bob delegates: Alice's answer is not about Bob."""
    world.server.gate = asyncio.Event()
    expire(world)
    call = asyncio.create_task(world.get())
    await until(lambda: bool(world.server.requests))
    gate, world.server.gate = world.server.gate, None
    await world.tokens.invalidate("acme", ALICE)
    await world.delegate(ALICE, account="bob")
    bobs = await world.get(include_id_token=True)
    gate.set()
    assert (await call).version == bobs.version
    await world.settle()
    assert await world.get(include_id_token=True) == bobs
    assert "foreign_subject" not in world.events.outcomes("renewal")


async def test_a_read_that_keeps_alive_restores_no_refused_refresh_token(world: World) -> None:
    stale = await world.vault.grant(world.vault.context_key("acme", ALICE))
    assert stale is not None
    for family in world.server.refresh_tokens.values():
        family.alive = False
    world.clock.advance(200)
    with pytest.raises(ConsentRequired):
        await world.get(min_ttl=120)
    assert not await world.store.touch_grant(stale[0], was=stale[0].sealed)
    world.tokens._keep_alive(stale[0].key, stale[1], world.clock())
    await world.settle()
    grant = await world.vault.grant(stale[0].key)
    assert grant is not None
    assert grant[1].tokens.refresh_token is None
    assert grant[1].session is not None
    assert grant[1].session.last_used_at == world.clock()


async def test_a_session_kept_alive_meanwhile_is_not_purged(world: World) -> None:
    world.clock.advance(1801)
    (row,) = await world.store.ended_grants(world.clock(), limit=10)
    grant = world.vault.sealer.open_grant(row)
    assert grant.session is not None
    alive = replace(grant, session=replace(grant.session, last_used_at=world.clock()))
    await world.store.touch_grant(world.vault.row(row.key, alive))
    assert not await world.revoker.forget(row)
    assert await world.row_of() is not None


async def test_a_degraded_answer_is_none_that_was_invalidated_meanwhile(world: World) -> None:
    world.clock.advance(200)
    world.server.gate = asyncio.Event()
    world.server.faults.append(ServerUnavailable("503"))
    call = asyncio.create_task(world.get(min_ttl=120))
    await until(lambda: bool(world.server.requests))
    gate, world.server.gate = world.server.gate, None
    await world.tokens.invalidate("acme", ALICE)
    world.server.faults.appendleft(ServerUnavailable("503"))
    gate.set()
    with pytest.raises((ServerUnavailable, GrantNotFound)):
        await call


async def test_a_sidecar_that_slept_past_its_lease_does_not_overwrite(world: World) -> None:
    world.server.rotates = False
    sleeper, peer = world, world.sibling()
    world.server.gate = asyncio.Event()
    expire(world)
    asleep = asyncio.create_task(sleeper.get())
    await until(lambda: bool(world.server.requests))
    gate, world.server.gate = world.server.gate, None
    world.clock.advance(31)
    version = (await peer.get()).version
    gate.set()
    assert (await asleep).version == version
    await world.settle()
    assert (await peer.get()).version == version
    assert not world.server.revoked  # of one family: revoking it could end the peer's tokens


async def test_a_lease_taken_over_is_fenced_even_before_the_peer_has_an_answer(world: World) -> None:
    world.server.rotates = False
    peer = world.sibling()
    slept, held = asyncio.Event(), asyncio.Event()
    expire(world)
    world.server.gate = slept
    asleep = asyncio.create_task(world.get())
    await until(lambda: len(world.server.requests) == 1)
    world.clock.advance(31)
    world.server.gate = held
    second = asyncio.create_task(peer.get())
    await until(lambda: len(world.server.requests) == 2)
    slept.set()
    with pytest.raises(ServerUnavailable, match="taken this renewal over"):
        await asleep
    held.set()
    assert (await second).access_token


async def test_a_renewal_for_another_subject_ends_the_grant(world: World) -> None:
    world.server.renewed_account = "mallory"
    expire(world)
    with pytest.raises(ConsentRequired, match="another subject"):
        await world.get()
    await world.settle()
    assert await world.row_of() is None
    assert "foreign_subject" in world.events.outcomes("renewal")


async def test_a_renewal_without_usable_access_token_is_ambiguous(world: World) -> None:
    expire(world)
    world.server.overrides = {"access_token": None}
    with pytest.raises(AnswerLost):
        await world.get()
    assert (await attempt_of(world))[0] == 1


async def test_a_brand_no_longer_configured_costs_no_grant(world: World) -> None:
    expire(world)
    servers, world.vault.servers = world.vault.servers, {}
    with pytest.raises(ServerMisconfigured):
        await world.get()
    world.vault.servers = servers
    assert (await world.get()).access_token


# the gate


async def test_the_circuit_opens_and_a_probe_closes_it(world: World) -> None:
    for number in range(20):
        await world.delegate(Context(ContextKind.CONSUMER, f"c{number}"))
    world.server.requests.clear()
    expire(world)
    world.server.faults.extend(ServerUnavailable("503") for _ in range(5))
    everyone = [Context(ContextKind.CONSUMER, f"c{number}") for number in range(20)]
    for context in everyone:
        with pytest.raises(ServerUnavailable) as error:
            await world.get(context)
        assert error.value.retry_after
    assert len(world.server.requests) == 5
    assert world.events.outcomes("circuit") == ["opened"]
    world.clock.advance(2)
    await world.get(everyone[10])
    assert world.events.outcomes("circuit") == ["opened", "closed"]
    for context in everyone[11:]:
        await world.get(context)


async def test_an_open_circuit_lets_one_probe_through(world: World) -> None:
    world.server.prepare_fault = ServerUnavailable("down")
    expire(world)
    for _ in range(6):
        with pytest.raises(ServerUnavailable):
            await world.get()
    world.server.prepare_fault = None
    gate = world.vault.gate("acme")
    assert gate.is_open
    world.clock.advance(2)
    assert not gate.is_open
    world.server.gate = asyncio.Event()
    probe = asyncio.create_task(world.get())
    await until(lambda: bool(world.server.requests))
    assert gate.is_open
    with pytest.raises(ServerUnavailable):
        gate.check()
    world.server.gate.set()
    await probe
    assert not gate.is_open


# background renewal


async def test_what_is_due_is_renewed_before_anybody_asks(world: World) -> None:
    assert await world.housekeeping.renew("acme") == 0
    world.clock.advance(299)
    assert await world.housekeeping.renew("acme") == 1
    version = (await world.get()).version
    assert await world.housekeeping.renew("acme") == 0
    world.clock.advance(200)
    assert (await world.get()).version == version


async def test_ended_sessions_are_not_renewed(world: World) -> None:
    world.clock.advance(1801)
    assert await world.housekeeping.renew("acme") == 0
    assert not world.server.requests


async def test_thousands_overdue_neither_flood_nor_starve(world: World) -> None:
    for number in range(300):
        await world.delegate(Context(ContextKind.CONSUMER, f"c{number}"))
    world.server.requests.clear()
    expire(world)
    most = 0
    while renewed := await world.housekeeping.renew("acme"):
        most = max(most, renewed)
    assert most == 8
    assert len(world.server.requests) == 301 == len(set(world.server.requests))


async def test_grants_that_fail_make_way_for_others(world: World) -> None:
    for number in range(20):
        await world.delegate(Context(ContextKind.CONSUMER, f"c{number}"))
        world.clock.advance(0.01)
    dead = list(world.server.refresh_tokens.values())[:10]
    for family in dead:
        family.alive = False
    expire(world)
    for _ in range(6):
        await world.housekeeping.renew("acme")
    assert world.events.outcomes("renewal").count("renewed") == 11
    assert world.events.outcomes("renewal").count("refused") == 10


async def test_a_tampered_row_holds_nobody_up(world: World) -> None:
    store = world.store
    assert isinstance(store, MemoryStore)
    for number in range(20):
        await world.delegate(Context(ContextKind.CONSUMER, f"c{number}"))
    keys = list(store.grants)[:12]
    for key in keys:
        store.grants[key] = replace(store.grants[key], sealed=b"nonsense")
    expire(world)
    for _ in range(6):
        await world.housekeeping.renew("acme")
    assert world.events.outcomes("renewal").count("renewed") == 9
    world.clock.advance(86400)
    while await world.housekeeping.purge():
        await world.settle()
    assert not store.grants


# purge and revocation


async def test_at_its_end_a_session_is_deleted_and_its_refresh_token_revoked(world: World) -> None:
    world.clock.advance(1801)
    assert await world.housekeeping.purge() == 1
    await world.settle()
    assert await world.row_of() is None
    assert [hint for hint, _ in world.server.revoked] == ["refresh_token"]


@pytest.mark.parametrize("context", [ALICE, CHAT], ids=lambda context: context.kind)
async def test_a_link_is_good_though_the_former_grant_is_purged_meanwhile(
    world: World, context: Context
) -> None:
    """Of a conversation that is the usual case: its token's end is why the consumer is asked again."""
    await world.delegate(context)
    row = await world.row_of(context)
    assert row is not None
    world.clock.now = row.purge_at - 10
    url = await world.challenge(context)
    world.clock.advance(20)
    assert await world.housekeeping.purge() > 0
    assert await world.row_of(context) is None
    await world.complete(url)
    assert await world.get(context)


async def test_revocation_is_tried_until_it_succeeds_and_survives_a_restart(world: World) -> None:
    world.server.faults.extend(ServerUnavailable("503") for _ in range(4))
    await world.tokens.invalidate("acme", ALICE)
    await world.settle()
    assert not world.server.revoked
    restarted = world.sibling()
    for _ in range(6):
        world.clock.advance(400)
        await restarted.revoker.work()
    assert sorted(hint for hint, _ in world.server.revoked) == ["access_token", "refresh_token"]


async def test_revocation_is_given_up_at_last(world: World) -> None:
    world.server.prepare_fault = ServerUnavailable("gone")
    await world.tokens.invalidate("acme", ALICE)
    await world.settle()
    for _ in range(400):
        world.clock.advance(400)
        await world.revoker.work()
    assert [name for name, _ in world.events.events].count("revocation_given_up") == 2
    assert not await world.store.due_revocations(world.clock() + 1e6, limit=10)


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
async def test_a_clock_that_jumps_loses_no_grant(jump: float) -> None:
    """The vault's clock, with a wall clock that jumps and is set right again ten minutes later."""
    wall, steady = HandClock(), HandClock(0.0)
    world = World(wall=SteadyClock(Noted(), wall=wall, steady=steady))

    def pass_time(seconds: float) -> None:
        wall.advance(seconds)
        steady.advance(seconds)

    await world.delegate(ALICE)
    wall.advance(jump)
    for _ in range(2):
        pass_time(300)
        await world.get(keeps_session_alive=True)
        assert await world.housekeeping.purge() == 0
        await world.settle()
    wall.advance(-jump)
    pass_time(300)
    assert world.server.answers((await world.get()).access_token.reveal())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 a fake's plain state is awaited
            await asyncio.sleep(0.001)
