"""The confirmation code: what is locked until it is brought, how few tries there are, and what is left."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from tests.core.test_outcomes import AWAITING, COMPLETED, EXPIRED, FAILED, PENDING, Watching, begin
from tests.core.test_renewal import until
from tests.core.world import ACME, ALICE, CHAT, World, permit_all
from tests.fakes.memory_store import MemoryStore
from tokenvault_sidecar.core.challenges import DelegationRequest
from tokenvault_sidecar.core.confirmation import TRIES, read_code
from tokenvault_sidecar.core.delegations import Challenge
from tokenvault_sidecar.core.errors import (
    ConfirmationCodeWrong,
    ConfirmationRequired,
    GrantNotFound,
    PolicyDenied,
    Reason,
    StateNotFound,
    StoreUnavailable,
    SubjectMismatch,
)
from tokenvault_sidecar.core.model import Context, ContextKind, Delegated, DelegationStatus, Secret
from tokenvault_sidecar.core.outcomes import FINISHING
from tokenvault_sidecar.core.ports import DelegationRow, GrantRow

GUARDED = replace(ACME, confirms=True)
BOTH = pytest.mark.parametrize("context", [ALICE, CHAT], ids=lambda context: context.kind)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World(brand=GUARDED)
    yield world
    await world.settle()


async def log_in(world: World, context: Context = ALICE, account: str = "alice") -> tuple[Challenge, Secret]:
    """A consumer has followed the link, and sees this code."""
    challenge = await begin(world, context)
    done = await world.complete(challenge.authorization_url.reveal(), account)
    assert done.confirmation is not None
    return challenge, done.confirmation.code


async def confirm(world: World, challenge: Challenge, code: Secret | str, caller: str = "bot") -> Delegated:
    brought = code if isinstance(code, Secret) else Secret(code)
    return await world.delegations.confirmations.confirm(
        challenge.delegation_id, brought, caller=caller, permit=permit_all
    )


def other(code: Secret, number: int = 1) -> Secret:
    return Secret(f"{(int(code.reveal()) + number) % 10**8:08}")


async def refused(world: World, challenge: Challenge, code: Secret) -> int:
    """How many tries are left after this wrong one."""
    with pytest.raises(ConfirmationCodeWrong) as caught:
        await confirm(world, challenge, code)
    return caught.value.tries_left


async def pass_time(world: World, seconds: float) -> None:
    """Time in which the house is kept."""
    world.clock.advance(seconds)
    await world.housekeeping.purge()
    await world.revoker.work()
    await world.settle()


@BOTH
async def test_a_grant_is_locked_until_its_code_is_brought(world: World, context: Context) -> None:
    challenge = await begin(world, context)
    watching = await Watching(world, challenge).begun()
    done = await world.complete(challenge.authorization_url.reveal())
    assert done.confirmation is not None
    with pytest.raises(GrantNotFound):
        await world.get(context)
    assert await world.row_of(context) is None
    unlocked = await confirm(world, challenge, done.confirmation.code)
    assert unlocked == replace(done, confirmation=None)
    assert await watching.all() == [PENDING, AWAITING, COMPLETED]
    assert watching.told[1].delegated is None
    assert watching.told[1].expires_at == done.confirmation.expires_at
    assert watching.told[-1].delegated == unlocked
    assert world.server.answers((await world.get(context)).access_token.reveal())
    await pass_time(world, GUARDED.delegation_lifetime + 1)
    assert not world.server.revoked
    assert world.events.outcomes("confirmation") == ["shown", "confirmed"]
    assert world.events.outcomes("delegation") == ["completed"]


async def test_codes_are_of_eight_digits_and_not_the_same(world: World) -> None:
    codes = [(await log_in(world, Context(ContextKind.CONVERSATION, str(n))))[1].reveal() for n in range(20)]
    assert len(set(codes)) > 15
    assert {len(code) for code in codes} == {8}
    assert all(code.isdecimal() for code in codes)


async def test_the_former_grant_is_served_until_then(world: World) -> None:
    challenge, code = await log_in(world)
    await confirm(world, challenge, code)
    former = await world.get()
    challenge, code = await log_in(world)
    assert (await world.get()).version == former.version
    await confirm(world, challenge, code)
    assert (await world.get()).version != former.version


@BOTH
async def test_the_former_grant_may_end_while_the_code_is_waited_for(world: World, context: Context) -> None:
    challenge, code = await log_in(world, context)
    await confirm(world, challenge, code)
    former, row = await world.get(context), await world.row_of(context)
    assert row is not None
    world.clock.now = row.purge_at - 10
    challenge, code = await log_in(world, context)
    watching = await Watching(world, challenge).begun(AWAITING)
    await pass_time(world, 20)
    assert await world.row_of(context) is None
    await confirm(world, challenge, code)
    assert await watching.all() == [AWAITING, COMPLETED]
    assert (await world.get(context)).version != former.version


async def test_wrong_codes_are_counted_and_the_last_voids_it(world: World) -> None:
    challenge, code = await log_in(world)
    watching = Watching(world, challenge)
    left = [await refused(world, challenge, other(code, n)) for n in range(1, TRIES + 1)]
    assert left == [4, 3, 2, 1, 0]
    assert await watching.all() in ([AWAITING, FAILED], [FAILED])
    assert watching.told[-1].reason is Reason.CONFIRMATION_CODE_WRONG
    assert await refused(world, challenge, code) == 0
    await world.settle()
    assert {hint for hint, _ in world.server.revoked} == {"refresh_token", "access_token"}
    assert not any(world.server.answers(token) for token in world.server.access_tokens)
    with pytest.raises(GrantNotFound):
        await world.get()
    assert world.events.outcomes("confirmation") == ["shown"] + ["wrong"] * TRIES
    assert world.events.outcomes("delegation") == ["confirmation_code_wrong"]


async def test_the_right_code_is_taken_at_the_last_try(world: World) -> None:
    challenge, code = await log_in(world)
    for number in range(1, TRIES):
        await refused(world, challenge, other(code, number))
    await confirm(world, challenge, code)
    assert await world.get()


async def test_repeating_a_call_changes_nothing(world: World) -> None:
    challenge, code = await log_in(world)
    assert [await refused(world, challenge, other(code)) for _ in range(TRIES + 1)] == [TRIES - 1] * (
        TRIES + 1
    )
    assert await confirm(world, challenge, code) == await confirm(world, challenge, code)


async def test_many_guesses_at_once_by_many_sidecars_are_counted_each(world: World) -> None:
    challenge, code = await log_in(world)
    doors = [world, world.sibling(), world.sibling()]
    guesses = [refused(doors[n % 3], challenge, other(code, n)) for n in range(1, 61)]
    left = await asyncio.gather(*guesses)
    assert sorted(left, reverse=True)[:TRIES] == [4, 3, 2, 1, 0]
    assert left.count(0) == len(guesses) - TRIES + 1
    wrong = [outcome for door in doors for outcome in door.events.outcomes("confirmation")]
    assert wrong.count("wrong") == TRIES
    for door in doors:
        await door.settle()


@pytest.mark.parametrize("place", [0, 30, 60])
async def test_the_right_code_among_many_guesses_is_one_of_the_tries_or_too_late(
    world: World, place: int
) -> None:
    """Of what is asked at once no more is decided than the tries there are, the right one included."""
    challenge, code = await log_in(world)
    guesses = [other(code, n) for n in range(1, 61)]
    guesses.insert(place, code)
    doors = [world, world.sibling()]
    answers = await asyncio.gather(
        *(confirm(doors[n % 2], challenge, guess) for n, guess in enumerate(guesses)), return_exceptions=True
    )
    for door in doors:
        await door.settle()
    wrong = [outcome for door in doors for outcome in door.events.outcomes("confirmation")].count("wrong")
    unlocked = not isinstance(answers[place], Exception)
    assert wrong <= TRIES - unlocked
    assert (await world.row_of() is not None) is unlocked
    assert bool(world.server.revoked) is not unlocked


async def test_a_code_that_is_not_brought_in_time_is_worth_nothing(world: World) -> None:
    challenge, code = await log_in(world)
    watching = await Watching(world, challenge).begun(AWAITING)
    world.clock.advance(GUARDED.delegation_lifetime)
    with pytest.raises(StateNotFound):
        await confirm(world, challenge, code)
    await pass_time(world, FINISHING + 1)
    assert await watching.all() == [AWAITING, EXPIRED]
    with pytest.raises(StateNotFound):
        await confirm(world, challenge, code)
    assert not any(world.server.answers(token) for token in world.server.access_tokens)
    assert isinstance(world.store, MemoryStore)
    assert not world.store.delegations
    assert not world.store.revocations


async def test_one_brought_at_the_last_moment_is_told_as_completed(world: World) -> None:
    challenge, code = await log_in(world)
    watching = await Watching(world, challenge).begun(AWAITING)
    world.clock.advance(GUARDED.delegation_lifetime - 0.01)
    await confirm(world, challenge, code)
    world.clock.advance(1)
    assert await watching.all() == [AWAITING, COMPLETED]


@BOTH
async def test_invalidating_the_context_voids_what_waits(world: World, context: Context) -> None:
    challenge, code = await log_in(world, context)
    watching = await Watching(world, challenge).begun(AWAITING)
    await world.tokens.invalidate("acme", context)
    assert await watching.all() == [AWAITING, FAILED]
    assert watching.told[-1].reason is Reason.STATE_NOT_FOUND
    with pytest.raises(StateNotFound):
        await confirm(world, challenge, code)
    await pass_time(world, GUARDED.delegation_lifetime + 1)
    assert not any(world.server.answers(token) for token in world.server.access_tokens)


async def test_invalidated_while_the_code_was_exchanged(world: World) -> None:
    challenge = await begin(world)
    world.server.gate = asyncio.Event()
    logging_in = asyncio.create_task(world.complete(challenge.authorization_url.reveal()))
    await until(lambda: bool(world.server.requests))
    await world.tokens.invalidate("acme", ALICE)
    world.server.gate.set()
    with pytest.raises(StateNotFound):
        await logging_in
    await world.settle()
    assert not any(world.server.answers(token) for token in world.server.access_tokens)


async def test_the_brand_goes_and_comes_back_while_the_code_is_exchanged(world: World) -> None:
    """What was logged in to is not left behind alive, in no row and in no queue."""
    challenge = await begin(world)
    world.server.gate = asyncio.Event()
    logging_in = asyncio.create_task(world.complete(challenge.authorization_url.reveal()))
    await until(lambda: bool(world.server.requests))
    world.vault.brands = {}
    world.server.gate.set()
    done = await logging_in
    assert done.confirmation is not None
    world.vault.brands = {"acme": GUARDED}
    await confirm(world, challenge, done.confirmation.code)


async def test_only_the_caller_that_started_it_confirms(world: World) -> None:
    challenge, code = await log_in(world)
    for _ in range(TRIES + 1):
        with pytest.raises(StateNotFound):
            await confirm(world, challenge, other(code), caller="another")
    with pytest.raises(StateNotFound):
        await confirm(world, challenge, code, caller="another")

    def deny(brand: str, context: Context) -> None:
        raise PolicyDenied(f"not {brand}")

    with pytest.raises(PolicyDenied):
        await world.delegations.confirmations.confirm(
            challenge.delegation_id, code, caller="bot", permit=deny
        )
    assert await refused(world, challenge, other(code)) == TRIES - 1
    await confirm(world, challenge, code)


async def test_there_is_nothing_to_confirm_before_the_login(world: World) -> None:
    challenge = await begin(world)
    for _ in range(TRIES + 1):
        with pytest.raises(StateNotFound):
            await confirm(world, challenge, "12345678")
    with pytest.raises(StateNotFound):
        await confirm(world, replace(challenge, delegation_id="unknown"), "12345678")
    done = await world.complete(challenge.authorization_url.reveal())
    assert done.confirmation
    await confirm(world, challenge, done.confirmation.code)


async def test_a_code_of_another_delegation_is_wrong(world: World) -> None:
    first, code = await log_in(world)
    second, _ = await log_in(world)
    assert await refused(world, second, code) == TRIES - 1
    await confirm(world, first, code)


async def test_a_brand_without_the_guard_has_nothing_to_confirm() -> None:
    world = World()
    challenge = await begin(world)
    done = await world.complete(challenge.authorization_url.reveal())
    assert done.confirmation is None
    assert await confirm(world, challenge, "12345678") == done
    await world.settle()


async def test_the_guard_is_switched_off_while_a_code_waits(world: World) -> None:
    challenge, code = await log_in(world)
    world.vault.brands = {"acme": ACME}
    await refused(world, challenge, other(code))
    world.vault.brands = {}
    with pytest.raises(StateNotFound):
        await confirm(world, challenge, code)
    world.vault.brands = {"acme": ACME}
    await confirm(world, challenge, code)


async def test_somebody_else_than_the_grant_is_for_sees_no_code(world: World) -> None:
    challenge, code = await log_in(world)
    await confirm(world, challenge, code)
    mallory = await begin(world)
    with pytest.raises(SubjectMismatch):
        await world.complete(mallory.authorization_url.reveal(), "mallory")
    await world.settle()
    assert len(world.server.revoked) == 2
    assert world.server.answers((await world.get()).access_token.reveal())


async def test_somebody_else_was_confirmed_meanwhile(world: World) -> None:
    late, code = await log_in(world, account="mallory")
    challenge, right = await log_in(world)
    await confirm(world, challenge, right)
    with pytest.raises(SubjectMismatch):
        await confirm(world, late, code)
    watching = Watching(world, late)
    assert await watching.all() == [FAILED]
    assert watching.told[-1].reason is Reason.SUBJECT_MISMATCH
    await world.settle()
    assert len(world.server.revoked) == 2
    assert world.server.answers((await world.get()).access_token.reveal())


async def test_the_grant_is_confirmed_over_one_that_changed_meanwhile(world: World) -> None:
    first, code = await log_in(world)
    second, other_code = await log_in(world)
    both = await asyncio.gather(confirm(world, first, code), confirm(world.sibling(), second, other_code))
    assert len(both) == 2
    assert await world.get()


async def test_the_store_is_away_for_a_moment_at_the_login(world: World) -> None:
    assert isinstance(world.store, MemoryStore)
    store, challenge = world.store, await begin(world)
    world.server.gate = asyncio.Event()
    logging_in = asyncio.create_task(world.complete(challenge.authorization_url.reveal()))
    await until(lambda: bool(world.server.requests))
    store.down = True
    world.server.gate.set()
    await until(lambda: any(name == "delegation_unsaved" for name, _ in world.events.events))
    store.down = False
    done = await logging_in
    assert done.confirmation
    await confirm(world, challenge, done.confirmation.code)


async def test_the_store_is_away_when_the_code_is_brought(world: World) -> None:
    assert isinstance(world.store, MemoryStore)
    challenge, code = await log_in(world)
    world.store.down = True
    for brought in (code, other(code)):
        with pytest.raises(StoreUnavailable):
            await confirm(world, challenge, brought)
    world.store.down = False
    assert await refused(world, challenge, other(code)) == TRIES - 1
    await confirm(world, challenge, code)


class Untold(MemoryStore):
    """Does what it is asked, and says once of each that it could not."""

    def __init__(self) -> None:
        super().__init__()
        self.told: set[str] = set()

    async def put_grant(self, row: GrantRow, **given: Any) -> bool:
        return self._tell("put_grant", await super().put_grant(row, **given))

    async def change_taken(self, row: DelegationRow, **given: Any) -> bool:
        return self._tell("change_taken", await super().change_taken(row, **given))

    async def end_taken(self, row: DelegationRow, **given: Any) -> bool:
        return self._tell("end_taken", await super().end_taken(row, **given))

    def _tell(self, what: str, done: bool) -> bool:
        if what not in self.told:
            self.told.add(what)
            raise StoreUnavailable("the connection broke", retry_after=1.0)
        return done


async def test_what_was_stored_but_not_told_so_is_neither_lost_nor_done_twice() -> None:
    store = Untold()
    world = World(store=store, brand=GUARDED)
    challenge, code = await log_in(world)
    assert len(store.revocations) == 2
    store.told.remove("change_taken")
    with pytest.raises(StoreUnavailable):
        await confirm(world, challenge, other(code))
    assert await refused(world, challenge, other(code)) == TRIES - 1
    with pytest.raises(StoreUnavailable):
        await confirm(world, challenge, code)
    assert await confirm(world, challenge, code)
    assert await world.get()
    assert not store.revocations
    guessed, code = await log_in(world, CHAT)
    for number in range(1, TRIES):
        await refused(world, guessed, other(code, number))
    with pytest.raises(StoreUnavailable):
        await confirm(world, guessed, other(code, TRIES))
    assert await refused(world, guessed, other(code, TRIES)) == 0
    await pass_time(world, GUARDED.delegation_lifetime + 1)
    assert len(world.server.revoked) == 1  # a conversation's refresh token is never kept
    await world.settle()


async def test_what_a_peer_with_a_faster_clock_is_revoking_is_not_confirmed(world: World) -> None:
    challenge, code = await log_in(world)
    peer = World(
        store=world.store,
        server=world.server,
        keys=world.keys,
        brand=GUARDED,
        wall=lambda: world.clock() + 700,
    )
    await peer.revoker.work()
    with pytest.raises(StateNotFound):
        await confirm(world, challenge, code)
    assert await world.row_of() is None
    await peer.settle()


async def test_a_row_that_is_sealed_anew_meanwhile_is_confirmed(world: World) -> None:
    challenge, code = await log_in(world)
    records = await world.store.sealed_records(world.keys.head(world.keys.active), limit=100)
    await world.store.reseal([(record, world.vault.sealer.reseal(record)) for record in records])
    await refused(world, challenge, other(code))
    await confirm(world, challenge, code)


async def test_a_caller_that_goes_away_leaves_the_confirming_to_go_on(world: World) -> None:
    challenge, code = await log_in(world)
    calling = asyncio.create_task(confirm(world, challenge, code))
    await asyncio.sleep(0)
    calling.cancel()
    await world.settle()
    assert await world.get()


async def test_idle_time_counts_from_the_confirmation(world: World) -> None:
    short = replace(GUARDED.contexts[ContextKind.CONSUMER], session_idle=300.0)
    world.vault.brands = {"acme": replace(GUARDED, contexts={ContextKind.CONSUMER: short})}
    challenge, code = await log_in(world)
    world.clock.advance(500)
    done = await confirm(world, challenge, code)
    assert done.session_ends_at == world.clock() + 300
    assert await world.get()


async def test_a_get_token_with_challenge_asks_for_the_code(world: World) -> None:
    wanted = DelegationRequest("acme", ALICE, "bot")
    challenge = await world.consent.challenge(wanted)
    done = await world.complete(challenge.authorization_url.reveal())
    assert done.confirmation is not None
    with pytest.raises(ConfirmationRequired) as caught:
        await world.consent.challenge(wanted)
    assert caught.value.delegation_id == challenge.delegation_id
    assert caught.value.expires_at == done.confirmation.expires_at
    another = await world.consent.challenge(replace(wanted, caller="another"))
    assert another.delegation_id != challenge.delegation_id
    world.clock.advance(GUARDED.delegation_lifetime)
    assert (await world.consent.challenge(wanted)).delegation_id != challenge.delegation_id


async def test_what_ended_is_final() -> None:
    assert {status for status in DelegationStatus if not status.is_final} == {PENDING, AWAITING}


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        ("12345678", "12345678"),
        ("1234 5678", "12345678"),
        (" 1234-5678. ", "12345678"),
        ("1234\u00a05678\u200f", "12345678"),
        ("1 2 3 4 5 6 7 8\n", "12345678"),
        ("(0012–3456)", "00123456"),
        ("١٢٣٤ ٥٦٧٨", "12345678"),
        ("１２３４５６７８", "12345678"),
        ("", None),
        ("1234567", None),
        ("123456789", None),
        ("it is 12345678", None),
        ("½2345678", None),
        ("1234567²", None),
        ("+12345678", None),
    ],
)
def test_a_code_is_read_as_people_type_it(typed: str, code: str | None) -> None:
    read = read_code(typed)
    assert (read and read.reveal()) == code
