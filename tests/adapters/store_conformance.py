"""What every store must do: each sentence of `core.ports.Store`, told to two doors of one store.

A store's test module subclasses `StoreConformance` and gives it a fixture `stand`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pytest

from tokenvault_sidecar.core.model import ContextKind
from tokenvault_sidecar.core.ports import (
    SEALED_HEAD,
    Attempt,
    Completion,
    Counts,
    DelegationRow,
    GrantRow,
    OutcomeRow,
    RevocationRow,
    SealedRecord,
    Store,
    WrappedKey,
)

NOW = 1_800_000_000.0
LEASE = 30.0


@dataclass(frozen=True, slots=True)
class Stand:
    """A new, empty store and `peer`, another door to it. `pass_time` moves the lease clock, in seconds."""

    store: Store
    peer: Store
    pass_time: Callable[[float], None]


def row_key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def grant_row(number: int = 1, version: str = "v1", **fields: object) -> GrantRow:
    row = GrantRow(
        key=row_key(number),
        brand="acme",
        kind=ContextKind.CONSUMER,
        version=version,
        sealed=f"sealed {number} {version}".encode(),
        purge_at=NOW + 1000.0,
        renew_at=NOW + 100.0,
    )
    return replace(row, **fields)  # type: ignore[arg-type]  # a test's row of any fields


def delegation_row(number: int = 1, context: int = 1, expires_at: float = NOW + 600.0) -> DelegationRow:
    return DelegationRow(
        key=row_key(1000 + number),
        context_key=row_key(context),
        brand="acme",
        kind=ContextKind.CONVERSATION,
        expires_at=expires_at,
        sealed=b"sealed delegation",
    )


def outcome_row(number: int = 1, context: int = 1, **fields: object) -> OutcomeRow:
    row = OutcomeRow(
        key=row_key(2000 + number),
        context_key=row_key(context),
        brand="acme",
        kind=ContextKind.CONVERSATION,
        purge_at=NOW + 4200.0,
        sealed=b"sealed outcome",
    )
    return replace(row, **fields)  # type: ignore[arg-type]  # a test's row of any fields


def revocation_row(number: int = 1, due_at: float = NOW, tries: int = 0) -> RevocationRow:
    return RevocationRow(
        id=f"revocation-{number}",
        brand="acme",
        due_at=due_at,
        give_up_at=NOW + 86400.0,
        sealed=b"sealed token",
        tries=tries,
    )


def wrapped_key(name: str, created_at: float = NOW) -> WrappedKey:
    return WrappedKey(id=name, purpose="data", kek="kek-1", wrapped=b"wrapped", created_at=created_at)


async def lease(store: Store, row: GrantRow, owner: str = "me", unanswered: int = 0) -> bool:
    return await store.acquire_lease(
        row.key, version=row.version, unanswered=unanswered, owner=owner, seconds=LEASE
    )


def keys(rows: Sequence[GrantRow]) -> list[bytes]:
    return [row.key for row in rows]


class GrantConformance:
    async def test_a_grant_is_read_as_it_was_written(self, stand: Stand) -> None:
        row = grant_row(
            attempt=Attempt(unanswered=2, failures=3, retry_at=NOW + 5.5, reason="AS_UNAVAILABLE")
        )
        assert await stand.store.put_grant(row, replaces=None)
        assert await stand.store.get_grant(row.key) == row
        assert await stand.peer.get_grant(row.key) == row

    async def test_optional_columns_may_be_none(self, stand: Stand) -> None:
        row = grant_row(kind=ContextKind.CONVERSATION, renew_at=None)
        assert await stand.store.put_grant(row, replaces=None)
        assert await stand.store.get_grant(row.key) == row

    async def test_an_unknown_grant_is_none(self, stand: Stand) -> None:
        assert await stand.store.get_grant(row_key(1)) is None

    async def test_replacing_none_needs_an_empty_place(self, stand: Stand) -> None:
        first, second = grant_row(), grant_row(version="v2")
        assert await stand.store.put_grant(first, replaces=None)
        assert not await stand.store.put_grant(second, replaces=None)
        assert not await stand.store.put_grant(first, replaces=None)
        assert await stand.store.get_grant(first.key) == first

    async def test_a_version_is_replaced_only_where_it_is_there(self, stand: Stand) -> None:
        first, second = grant_row(), grant_row(version="v2", renew_at=NOW + 7.0, purge_at=NOW + 8.0)
        assert not await stand.store.put_grant(second, replaces="v1")
        assert await stand.store.get_grant(first.key) is None
        await stand.store.put_grant(first, replaces=None)
        assert not await stand.store.put_grant(second, replaces="v0")
        assert await stand.store.get_grant(first.key) == first
        assert await stand.store.put_grant(second, replaces="v1")
        assert await stand.store.get_grant(first.key) == second

    async def test_a_row_may_keep_its_version(self, stand: Stand) -> None:
        row = grant_row()
        await stand.store.put_grant(row, replaces=None)
        failed = replace(row, attempt=Attempt(failures=1, retry_at=NOW, reason="AS_UNAVAILABLE"))
        assert await stand.store.put_grant(failed, replaces=row.version)
        assert await stand.store.get_grant(row.key) == failed

    async def test_put_does_not_write_that_a_row_is_leased(self, stand: Stand) -> None:
        row = grant_row(attempt=Attempt(leased=True))
        await stand.store.put_grant(row, replaces=None)
        assert await stand.store.get_grant(row.key) == grant_row()
        await stand.store.put_grant(row, replaces=row.version)
        assert await stand.store.get_grant(row.key) == grant_row()

    async def test_put_drops_any_lease(self, stand: Stand) -> None:
        row = grant_row()
        await stand.store.put_grant(row, replaces=None)
        assert await lease(stand.peer, row)
        assert await stand.store.put_grant(row, replaces=row.version)
        assert await stand.store.get_grant(row.key) == row
        assert not await stand.peer.release_lease(row.key, owner="me", attempt=Attempt())

    async def test_put_with_an_owner_needs_that_lease(self, stand: Stand) -> None:
        first, second = grant_row(), grant_row(version="v2")
        assert not await stand.store.put_grant(first, replaces=None, owner="me")
        await stand.store.put_grant(first, replaces=None)
        assert not await stand.store.put_grant(second, replaces="v1", owner="me")
        assert await lease(stand.store, first)
        assert not await stand.store.put_grant(second, replaces="v1", owner="another")
        assert not await stand.store.put_grant(second, replaces="v0", owner="me")
        assert await stand.store.put_grant(second, replaces="v1", owner="me")
        assert await stand.store.get_grant(first.key) == second

    async def test_a_late_answer_is_written_unless_another_took_the_lease(self, stand: Stand) -> None:
        for number, taken in enumerate((False, True)):
            row = grant_row(number)
            await stand.store.put_grant(row, replaces=None)
            await lease(stand.store, row)
            stand.pass_time(LEASE + 1)
            if taken:
                assert await lease(stand.peer, row, owner="peer", unanswered=1)
            late = grant_row(number, version="v2")
            assert await stand.store.put_grant(late, replaces="v1", owner="me") is not taken

    async def test_touching_leaves_attempt_and_lease(self, stand: Stand) -> None:
        row = grant_row(attempt=Attempt(failures=2, retry_at=NOW, reason="AS_UNAVAILABLE"))
        await stand.store.put_grant(row, replaces=None)
        await lease(stand.store, row)
        touched = replace(row, sealed=b"newer", purge_at=NOW + 2.0, renew_at=None, attempt=Attempt())
        assert await stand.peer.touch_grant(touched)
        attempt = replace(row.attempt, leased=True, unanswered=1)
        assert await stand.store.get_grant(row.key) == replace(touched, attempt=attempt)
        assert await stand.store.release_lease(row.key, owner="me", attempt=Attempt())

    async def test_touching_needs_the_version(self, stand: Stand) -> None:
        row = grant_row()
        assert not await stand.store.touch_grant(row)
        await stand.store.put_grant(row, replaces=None)
        assert not await stand.store.touch_grant(replace(row, version="v2", sealed=b"newer"))
        assert await stand.store.get_grant(row.key) == row

    async def test_what_was_read_is_what_is_changed(self, stand: Stand) -> None:
        """With `was`, a row that was sealed anew since is not touched, leased or forgotten."""
        row = grant_row()
        await stand.store.put_grant(row, replaces=None)
        newer = replace(row, sealed=b"newer")
        assert await stand.peer.touch_grant(newer, was=row.sealed)
        assert not await stand.store.touch_grant(replace(row, sealed=b"older"), was=row.sealed)
        claim = partial(
            stand.store.acquire_lease, row.key, version="v1", unanswered=0, owner="me", seconds=LEASE
        )
        assert not await claim(was=row.sealed)
        assert not await stand.store.forget_context(row.key, version=row.version, was=row.sealed)
        assert await stand.store.get_grant(row.key) == newer
        assert await claim(was=newer.sealed)
        assert await stand.store.forget_context(row.key, version=row.version, was=newer.sealed)

    async def test_a_grant_completes_a_taken_delegation_or_is_not_written(self, stand: Stand) -> None:
        row, pending = grant_row(), delegation_row()
        assert not await stand.store.put_grant(row, replaces=None, completes=Completion(pending.key))
        await stand.store.put_delegation(pending)
        assert not await stand.store.put_grant(row, replaces=None, completes=Completion(pending.key))
        assert await stand.store.take_delegation(pending.key)
        assert await stand.peer.get_delegation(pending.key) is None
        assert await stand.peer.get_taken(pending.key)
        assert await stand.store.put_grant(row, replaces=None, completes=Completion(pending.key))
        assert not await stand.peer.get_taken(pending.key)
        assert await stand.peer.get_grant(row.key) == row

    async def test_a_grant_that_is_not_written_leaves_the_delegation_taken(self, stand: Stand) -> None:
        row, pending = grant_row(), delegation_row()
        await stand.store.put_grant(row, replaces=None)
        await stand.store.put_delegation(pending)
        await stand.store.take_delegation(pending.key)
        assert not await stand.store.put_grant(row, replaces=None, completes=Completion(pending.key))
        assert await stand.store.get_taken(pending.key)

    async def test_due_grants_are_the_brands_soonest_first(self, stand: Stand) -> None:
        for number, due in ((1, NOW - 1.0), (2, NOW - 3.0), (3, NOW - 2.0), (4, NOW + 1.0), (5, None)):
            await stand.store.put_grant(grant_row(number, renew_at=due), replaces=None)
        await stand.store.put_grant(grant_row(6, renew_at=NOW - 9.0, brand="other"), replaces=None)
        due_rows = await stand.store.due_grants(NOW, brand="acme", limit=10)
        assert keys(due_rows) == [row_key(2), row_key(3), row_key(1)]
        assert due_rows[0] == grant_row(2, renew_at=NOW - 3.0)
        assert keys(await stand.store.due_grants(NOW, brand="acme", limit=2)) == [row_key(2), row_key(3)]
        assert keys(await stand.store.due_grants(NOW, brand="other", limit=2)) == [row_key(6)]
        assert not await stand.store.due_grants(NOW, brand="third", limit=2)

    async def test_a_grant_is_not_due_before_retry_at(self, stand: Stand) -> None:
        attempt = Attempt(failures=1, retry_at=NOW + 10.0, reason="AS_UNAVAILABLE")
        await stand.store.put_grant(grant_row(renew_at=NOW - 1.0, attempt=attempt), replaces=None)
        assert not await stand.store.due_grants(NOW + 9.0, brand="acme", limit=10)
        assert len(await stand.store.due_grants(NOW + 11.0, brand="acme", limit=10)) == 1

    async def test_a_leased_grant_is_not_due(self, stand: Stand) -> None:
        row = grant_row(renew_at=NOW - 1.0)
        await stand.store.put_grant(row, replaces=None)
        await lease(stand.peer, row)
        assert not await stand.store.due_grants(NOW, brand="acme", limit=10)
        await stand.peer.release_lease(row.key, owner="me", attempt=Attempt())
        assert list(await stand.store.due_grants(NOW, brand="acme", limit=10)) == [row]

    async def test_an_ambiguous_grant_is_not_due(self, stand: Stand) -> None:
        row = grant_row(renew_at=NOW - 1.0)
        await stand.store.put_grant(row, replaces=None)
        await lease(stand.peer, row)
        stand.pass_time(LEASE + 1)
        assert not await stand.store.due_grants(NOW, brand="acme", limit=10)

    async def test_ended_grants_come_soonest_first(self, stand: Stand) -> None:
        for number, end in ((1, NOW - 1.0), (2, NOW - 3.0), (3, NOW - 2.0), (4, NOW + 1.0)):
            brand = "acme" if number % 2 else "other"
            await stand.store.put_grant(grant_row(number, purge_at=end, brand=brand), replaces=None)
        await lease(stand.store, grant_row(2))
        ended = await stand.store.ended_grants(NOW, limit=10)
        assert keys(ended) == [row_key(2), row_key(3), row_key(1)]
        assert ended[0].attempt == Attempt(leased=True, unanswered=1)
        assert keys(await stand.store.ended_grants(NOW, limit=1)) == [row_key(2)]

    async def test_grants_are_paged_through_in_the_order_of_their_keys(self, stand: Stand) -> None:
        for number in (3, 1, 4, 2, 5):
            brand = "acme" if number % 2 else "other"
            await stand.store.put_grant(grant_row(number, brand=brand), replaces=None)
        await lease(stand.store, grant_row(1))
        first = await stand.peer.grants_after(b"", brand=None, limit=2)
        assert first == [
            grant_row(1, attempt=Attempt(leased=True, unanswered=1)),
            grant_row(2, brand="other"),
        ]
        rest = await stand.peer.grants_after(first[-1].key, brand=None, limit=10)
        assert keys(rest) == [row_key(3), row_key(4), row_key(5)]
        assert keys(await stand.peer.grants_after(row_key(1), brand="acme", limit=1)) == [row_key(3)]
        assert keys(await stand.peer.grants_after(b"", brand="other", limit=9)) == [row_key(2), row_key(4)]
        assert not await stand.peer.grants_after(row_key(5), brand=None, limit=10)

    async def test_all_is_counted(self, stand: Stand) -> None:
        assert await stand.store.count(NOW) == Counts({}, ambiguous=0, due=0, delegations=0, revocations=0)
        chat = grant_row(5, kind=ContextKind.CONVERSATION, renew_at=None)
        later = Attempt(failures=1, retry_at=NOW + 1.0)
        for row in (
            grant_row(1, renew_at=NOW - 1.0),
            grant_row(2, renew_at=NOW - 1.0, attempt=later),
            grant_row(3, renew_at=NOW - 1.0),
            grant_row(4),
            chat,
            replace(chat, key=row_key(6), brand="other"),
        ):
            await stand.store.put_grant(row, replaces=None)
        await lease(stand.store, grant_row(3))
        await stand.store.put_delegation(delegation_row())
        waiting = [revocation_row(1), revocation_row(2, due_at=NOW + 9.0, tries=1)]
        await stand.store.add_revocations([*waiting, revocation_row(3, due_at=NOW + 9.0)])
        consumers = {("acme", ContextKind.CONSUMER): 4}
        chats = {("acme", ContextKind.CONVERSATION): 1, ("other", ContextKind.CONVERSATION): 1}
        counted = Counts(consumers | chats, ambiguous=1, due=1, delegations=1, revocations=2)
        assert await stand.peer.count(NOW) == counted


class OutcomeConformance:
    async def test_an_outcome_is_kept_with_its_delegation_and_changed(self, stand: Stand) -> None:
        row = outcome_row()
        assert not await stand.store.set_outcome(row)
        await stand.store.put_delegation(delegation_row(), row)
        assert await stand.peer.get_outcome(row.key) == row
        changed = replace(row, sealed=b"otherwise", purge_at=NOW + 1.0)
        assert await stand.peer.set_outcome(changed)
        assert await stand.store.get_outcome(row.key) == changed
        assert await stand.store.get_outcome(outcome_row(2).key) is None

    async def test_a_context_s_latest_outcomes(self, stand: Stand) -> None:
        rows = [outcome_row(n, 1, purge_at=NOW + n) for n in range(5)]
        for number, row in enumerate([*rows, outcome_row(9, 2)]):
            await stand.store.put_delegation(delegation_row(number), row)
        latest = await stand.peer.latest_outcomes(row_key(1), after=NOW + 1, limit=2)
        assert list(latest) == [rows[4], rows[3]]
        assert list(await stand.store.latest_outcomes(row_key(1), after=NOW + 3, limit=9)) == [rows[4]]

    async def test_a_grant_that_completes_writes_the_outcome_with_it(self, stand: Stand) -> None:
        row, pending, outcome = grant_row(), delegation_row(), outcome_row()
        done = replace(outcome, sealed=b"done")
        await stand.store.put_delegation(pending, outcome)
        assert not await stand.store.put_grant(row, replaces=None, completes=Completion(pending.key, done))
        assert await stand.store.get_outcome(outcome.key) == outcome
        await stand.store.take_delegation(pending.key)
        assert await stand.store.put_grant(row, replaces=None, completes=Completion(pending.key, done))
        assert await stand.peer.get_outcome(outcome.key) == done

    @pytest.mark.parametrize("by", ["grant", "change", "end"])
    async def test_an_outcome_that_was_purged_comes_back(self, stand: Stand, by: str) -> None:
        pending, done = delegation_row(), outcome_row(sealed=b"done", purge_at=NOW + 9.0)
        await stand.store.put_delegation(pending)
        await stand.store.take_delegation(pending.key)
        match by:
            case "grant":
                completes = Completion(pending.key, done)
                assert await stand.store.put_grant(grant_row(), replaces=None, completes=completes)
            case "change":
                assert await stand.store.change_taken(pending, was=pending.sealed, outcome=done)
            case _:
                assert await stand.store.end_taken(pending, outcome=done)
        assert await stand.peer.get_outcome(done.key) == done

    async def test_outcomes_go_with_their_context_and_by_time(self, stand: Stand) -> None:
        for number, context, purge_at in ((1, 1, NOW), (2, 2, NOW), (3, 3, NOW - 1.0)):
            row = outcome_row(number, context, purge_at=purge_at)
            await stand.store.put_delegation(delegation_row(number, context), row)
        await stand.store.forget_context(row_key(1), version=None)
        await stand.store.purge_delegations(NOW, taken=NOW)
        left = [await stand.store.get_outcome(outcome_row(n).key) for n in (1, 2, 3)]
        assert left == [None, outcome_row(2, 2, purge_at=NOW), None]


async def hold(stand: Stand, *revocations: RevocationRow) -> DelegationRow:
    """A taken delegation with its outcome, changed to "held", and these revocations queued with that."""
    pending = delegation_row()
    await stand.store.put_delegation(pending, outcome_row())
    await stand.store.take_delegation(pending.key)
    held = replace(pending, sealed=b"held", expires_at=NOW + 900.0)
    outcome = outcome_row(sealed=b"waits", purge_at=NOW + 4500.0)
    assert await stand.store.change_taken(held, was=pending.sealed, outcome=outcome, revocations=revocations)
    return held


class TakenConformance:
    """What may become of a delegation that was taken: it is changed, it is ended, or a grant completes it."""

    async def test_a_taken_delegation_is_changed_with_its_outcome_and_revocations(self, stand: Stand) -> None:
        held = await hold(stand, revocation_row(1), revocation_row(2, due_at=NOW + 1.0))
        assert await stand.peer.get_taken(held.key) == held
        assert await stand.peer.get_delegation(held.key) is None
        assert await stand.peer.get_outcome(outcome_row().key) == outcome_row(
            sealed=b"waits", purge_at=NOW + 4500.0
        )
        assert await stand.peer.due_revocations(NOW, limit=10) == [revocation_row(1)]
        again = replace(held, sealed=b"held, with one try less")
        assert await stand.peer.change_taken(again, was=held.sealed)
        assert await stand.store.get_taken(held.key) == again

    async def test_what_was_changed_meanwhile_is_not_changed(self, stand: Stand) -> None:
        held = await hold(stand)
        another = replace(held, sealed=b"another")
        assert not await stand.peer.change_taken(
            another, was=b"as it was once", outcome=outcome_row(), revocations=[revocation_row()]
        )
        assert await stand.store.get_taken(held.key) == held
        assert await stand.store.get_outcome(outcome_row().key) != outcome_row()
        assert not await stand.store.due_revocations(NOW, limit=10)
        assert not await stand.store.end_taken(another, outcome=outcome_row())
        assert await stand.store.get_taken(held.key) == held

    async def test_what_is_not_taken_is_not_changed(self, stand: Stand) -> None:
        pending = delegation_row()
        assert not await stand.store.change_taken(pending, was=pending.sealed)
        await stand.store.put_delegation(pending)
        assert await stand.store.get_taken(pending.key) is None
        assert not await stand.store.change_taken(replace(pending, sealed=b"held"), was=pending.sealed)
        assert not await stand.store.end_taken(pending, outcome=outcome_row())
        assert await stand.store.get_delegation(pending.key) == pending

    async def test_a_taken_delegation_is_ended_with_its_outcome(self, stand: Stand) -> None:
        held = await hold(stand)
        done = outcome_row(sealed=b"failed")
        assert await stand.peer.end_taken(held, outcome=done)
        assert not await stand.store.end_taken(held, outcome=done)
        assert await stand.store.get_taken(held.key) is None
        assert await stand.store.get_outcome(done.key) == done

    async def test_a_grant_takes_its_revocations_back(self, stand: Stand) -> None:
        waiting = (revocation_row(1), revocation_row(2), revocation_row(3))
        held, row = await hold(stand, *waiting), grant_row()
        ids = (waiting[0].id, waiting[1].id)
        done = outcome_row(sealed=b"done")
        stale = Completion(held.key, done, b"as it was once", ids)
        assert not await stand.store.put_grant(row, replaces=None, completes=stale)
        assert len(await stand.store.due_revocations(NOW, limit=10)) == 3
        completes = replace(stale, was=held.sealed)
        assert not await stand.store.put_grant(row, replaces="v0", completes=completes)
        assert await stand.store.get_taken(held.key) == held
        assert await stand.store.put_grant(row, replaces=None, completes=completes)
        assert await stand.peer.due_revocations(NOW, limit=10) == [waiting[2]]
        assert await stand.peer.get_taken(held.key) is None
        assert await stand.peer.get_outcome(done.key) == done
        assert not await stand.store.put_grant(grant_row(2), replaces=None, completes=completes)

    @pytest.mark.parametrize("gone", [False, True])
    async def test_a_revocation_that_was_begun_is_not_taken_back(self, stand: Stand, gone: bool) -> None:
        held, row = await hold(stand, revocation_row(1), revocation_row(2)), grant_row()
        assert await stand.peer.postpone_revocation("revocation-2", tries=1, due_at=NOW)
        if gone:
            await stand.peer.drop_revocation("revocation-2")
        completes = Completion(held.key, outcome_row(), held.sealed, ("revocation-1", "revocation-2"))
        assert not await stand.store.put_grant(row, replaces=None, completes=completes)
        assert await stand.store.get_grant(row.key) is None
        assert await stand.store.get_taken(held.key) == held
        assert len(await stand.store.due_revocations(NOW, limit=10)) == 2 - gone

    async def test_a_held_delegation_goes_with_its_context_or_by_its_new_time_and_its_revocations_stay(
        self, stand: Stand
    ) -> None:
        held = await hold(stand, revocation_row())
        await stand.store.purge_delegations(NOW + 899.0, taken=NOW)
        assert await stand.store.get_taken(held.key) == held
        await stand.peer.purge_delegations(NOW + 901.0, taken=NOW)
        assert await stand.store.get_taken(held.key) is None
        await stand.store.purge_delegations(NOW + 4501.0, taken=NOW)
        held = await hold(stand, revocation_row(2))
        await stand.peer.forget_context(held.context_key, version=None)
        assert await stand.store.get_taken(held.key) is None
        assert len(await stand.store.due_revocations(NOW, limit=10)) == 2


class ForgettingConformance:
    async def test_forgetting_deletes_voids_and_queues(self, stand: Stand) -> None:
        row, other = grant_row(1), grant_row(2)
        for grant in (row, other):
            await stand.store.put_grant(grant, replaces=None)
        for number, context in ((1, 1), (2, 1), (3, 2)):
            await stand.store.put_delegation(delegation_row(number, context))
        assert await stand.peer.forget_context(row.key, version="v1", revocations=[revocation_row()])
        assert await stand.store.get_grant(row.key) is None
        assert await stand.store.get_grant(other.key) == other
        left = [await stand.store.get_delegation(delegation_row(n).key) for n in (1, 2, 3)]
        assert left == [None, None, delegation_row(3, 2)]
        assert await stand.store.due_revocations(NOW, limit=10) == [revocation_row()]

    async def test_forgetting_may_leave_the_delegations(self, stand: Stand) -> None:
        held, pending = await hold(stand, revocation_row(1)), delegation_row(2)
        await stand.store.put_delegation(pending)
        row = grant_row()
        await stand.store.put_grant(row, replaces=None)
        assert held.context_key == pending.context_key == row.key
        queued = [revocation_row(2)]
        assert await stand.peer.forget_context(row.key, version="v1", revocations=queued, voids=False)
        assert await stand.store.get_grant(row.key) is None
        assert await stand.store.get_taken(held.key) == held
        assert await stand.store.get_delegation(pending.key) == pending
        assert await stand.store.get_outcome(outcome_row().key) is not None
        assert len(await stand.store.due_revocations(NOW, limit=10)) == 2

    @pytest.mark.parametrize("expected", ["v0", None])
    async def test_forgetting_another_version_writes_nothing(
        self, stand: Stand, expected: str | None
    ) -> None:
        row, delegation = grant_row(), delegation_row()
        await stand.store.put_grant(row, replaces=None)
        await stand.store.put_delegation(delegation)
        assert not await stand.store.forget_context(row.key, version=expected, revocations=[revocation_row()])
        assert await stand.store.get_grant(row.key) == row
        assert await stand.store.get_delegation(delegation.key) == delegation
        assert not await stand.store.due_revocations(NOW, limit=10)

    async def test_forgetting_where_no_grant_is(self, stand: Stand) -> None:
        await stand.store.put_delegation(delegation_row())
        assert not await stand.store.forget_context(row_key(1), version="v1")
        assert await stand.store.get_delegation(delegation_row().key) == delegation_row()
        assert await stand.store.forget_context(row_key(1), version=None, revocations=[revocation_row()])
        assert await stand.store.get_delegation(delegation_row().key) is None
        assert await stand.store.due_revocations(NOW, limit=10) == [revocation_row()]

    async def test_forgetting_is_one_transaction(self, stand: Stand) -> None:
        row, delegation = grant_row(), delegation_row()
        await stand.store.put_grant(row, replaces=None)
        await stand.store.put_delegation(delegation)
        twice = [revocation_row(), revocation_row()]
        with pytest.raises(ValueError, match="there already"):
            await stand.store.forget_context(row.key, version="v1", revocations=twice)
        assert await stand.store.get_grant(row.key) == row
        assert await stand.store.get_delegation(delegation.key) == delegation
        assert not await stand.store.due_revocations(NOW, limit=10)

    async def test_a_forgotten_grants_lease_is_gone(self, stand: Stand) -> None:
        row = grant_row()
        await stand.store.put_grant(row, replaces=None)
        await lease(stand.store, row)
        await stand.store.forget_context(row.key, version="v1")
        assert not await stand.store.put_grant(grant_row(version="v2"), replaces="v1", owner="me")
        assert not await stand.store.release_lease(row.key, owner="me", attempt=Attempt())
        await stand.store.put_grant(row, replaces=None)
        assert await stand.store.get_grant(row.key) == row


class LeaseConformance:
    async def test_a_lease_shows_and_counts_one_unanswered(self, stand: Stand) -> None:
        row = grant_row(attempt=Attempt(unanswered=1, failures=2, retry_at=NOW, reason="AS_UNAVAILABLE"))
        await stand.store.put_grant(row, replaces=None)
        assert await lease(stand.store, row, unanswered=1)
        leased = replace(row, attempt=replace(row.attempt, leased=True, unanswered=2))
        assert await stand.store.get_grant(row.key) == leased
        assert await stand.peer.get_grant(row.key) == leased

    async def test_a_lease_needs_row_version_and_count(self, stand: Stand) -> None:
        row = grant_row()
        assert not await lease(stand.store, row)
        await stand.store.put_grant(row, replaces=None)
        assert not await lease(stand.store, grant_row(version="v2"))
        assert not await lease(stand.store, row, unanswered=1)
        assert await stand.store.get_grant(row.key) == row

    async def test_a_leased_row_is_not_leased_again(self, stand: Stand) -> None:
        row = grant_row()
        await stand.store.put_grant(row, replaces=None)
        assert await lease(stand.store, row)
        for owner in ("me", "another"):
            assert not await lease(stand.peer, row, owner=owner, unanswered=1)

    async def test_a_lease_runs_out(self, stand: Stand) -> None:
        row = grant_row()
        await stand.store.put_grant(row, replaces=None)
        await lease(stand.store, row)
        stand.pass_time(LEASE - 1)
        assert not await lease(stand.peer, row, owner="peer", unanswered=1)
        stand.pass_time(2)
        assert await stand.store.get_grant(row.key) == replace(row, attempt=Attempt(unanswered=1))
        assert await lease(stand.peer, row, owner="peer", unanswered=1)
        assert not await stand.store.release_lease(row.key, owner="me", attempt=Attempt())
        seen = await stand.store.get_grant(row.key)
        assert seen == replace(row, attempt=Attempt(leased=True, unanswered=2))

    async def test_a_released_lease_leaves_what_became_of_it(self, stand: Stand) -> None:
        row = grant_row()
        await stand.store.put_grant(row, replaces=None)
        await lease(stand.store, row)
        outcome = Attempt(leased=True, unanswered=1, failures=4, retry_at=NOW + 9.0, reason="AS_UNAVAILABLE")
        assert not await stand.store.release_lease(row.key, owner="another", attempt=outcome)
        assert await stand.store.release_lease(row.key, owner="me", attempt=outcome)
        seen = await stand.peer.get_grant(row.key)
        assert seen == replace(row, attempt=replace(outcome, leased=False))
        assert not await stand.store.release_lease(row.key, owner="me", attempt=Attempt())
        assert await lease(stand.peer, row, unanswered=1)

    async def test_releasing_where_no_grant_is(self, stand: Stand) -> None:
        assert not await stand.store.release_lease(row_key(1), owner="me", attempt=Attempt())


class DelegationConformance:
    async def test_a_delegation_is_read_as_it_was_written(self, stand: Stand) -> None:
        row = delegation_row()
        assert await stand.store.get_delegation(row.key) is None
        await stand.store.put_delegation(row)
        assert await stand.peer.get_delegation(row.key) == row
        assert await stand.peer.get_delegation(row.key) == row

    async def test_a_taken_delegation_is_gone(self, stand: Stand) -> None:
        row = delegation_row()
        assert not await stand.store.take_delegation(row.key)
        await stand.store.put_delegation(row)
        assert await stand.peer.take_delegation(row.key)
        assert not await stand.store.take_delegation(row.key)
        assert await stand.store.get_delegation(row.key) is None

    async def test_only_who_took_a_delegation_gives_it_back(self, stand: Stand) -> None:
        row = delegation_row()
        assert not await stand.store.give_back_delegation(row.key, 1)
        await stand.store.put_delegation(row)
        assert not await stand.store.give_back_delegation(row.key, 1)
        late = await stand.store.take_delegation(row.key)
        assert late is not None
        assert await stand.peer.give_back_delegation(row.key, late)
        assert await stand.store.get_delegation(row.key) == row
        assert not await stand.store.give_back_delegation(row.key, late)
        taker = await stand.peer.take_delegation(row.key)
        assert taker not in (None, late)
        assert not await stand.store.give_back_delegation(row.key, late)
        assert await stand.store.get_delegation(row.key) is None
        assert await stand.store.get_taken(row.key) == row

    async def test_one_that_holds_a_grant_is_not_given_back(self, stand: Stand) -> None:
        row = delegation_row()
        await stand.store.put_delegation(row)
        taker = await stand.store.take_delegation(row.key)
        assert taker is not None
        held = replace(row, sealed=b"held")
        assert await stand.store.change_taken(held, was=row.sealed)
        assert not await stand.peer.give_back_delegation(row.key, taker)
        assert await stand.peer.get_taken(row.key) == held

    async def test_one_that_is_taken_is_left_to_who_took_it_for_longer(self, stand: Stand) -> None:
        for number in (1, 2, 3):
            row = delegation_row(number, expires_at=NOW - 1.0)
            await stand.store.put_delegation(row)
            if number > 1:
                await stand.store.take_delegation(row.key)
        assert await stand.store.change_taken(replace(row, sealed=b"held"), was=row.sealed)
        assert await stand.peer.purge_delegations(NOW, taken=NOW - 2.0) == 2
        assert await stand.store.get_taken(delegation_row(2).key) is not None
        assert await stand.peer.purge_delegations(NOW, taken=NOW) == 1

    async def test_a_pending_delegation_is_not_overwritten(self, stand: Stand) -> None:
        row = delegation_row()
        await stand.store.put_delegation(row)
        with pytest.raises(ValueError, match="there already"):
            await stand.store.put_delegation(replace(row, sealed=b"another's"))
        assert await stand.store.get_delegation(row.key) == row

    async def test_expired_delegations_are_purged(self, stand: Stand) -> None:
        for number, expiry in ((1, NOW - 2.0), (2, NOW - 1.0), (3, NOW), (4, NOW + 1.0)):
            await stand.store.put_delegation(delegation_row(number, expires_at=expiry))
        assert await stand.store.purge_delegations(NOW, taken=NOW) == 2
        assert await stand.store.purge_delegations(NOW, taken=NOW) == 0
        left = [await stand.store.get_delegation(delegation_row(n).key) for n in (1, 2, 3, 4)]
        assert [row is not None for row in left] == [False, False, True, True]

    async def test_a_brands_delegations_are_voided(self, stand: Stand) -> None:
        other = replace(delegation_row(3), brand="other")
        for row in (delegation_row(1), delegation_row(2)):
            await stand.store.put_delegation(row)
        await stand.store.put_delegation(delegation_row(4), outcome_row(4))
        await stand.store.put_delegation(other, outcome_row(3, brand="other"))
        await stand.store.take_delegation(delegation_row(2).key)
        assert await stand.peer.void_delegations(brand="acme") == 3
        assert await stand.store.get_delegation(delegation_row(1).key) is None
        assert await stand.store.get_outcome(outcome_row(4).key) is None
        assert await stand.store.get_outcome(outcome_row(3).key) is not None
        assert not await stand.store.get_taken(delegation_row(2).key)
        assert await stand.store.get_delegation(other.key) == other
        assert await stand.store.void_delegations(brand="acme") == 0


class RevocationConformance:
    async def test_due_revocations_come_soonest_first(self, stand: Stand) -> None:
        rows = [
            revocation_row(1, due_at=NOW - 1.0),
            revocation_row(2, due_at=NOW - 3.0, tries=2),
            revocation_row(3, due_at=NOW - 2.0),
            revocation_row(4, due_at=NOW + 1.0),
        ]
        await stand.store.add_revocations([])
        await stand.store.add_revocations(rows)
        assert await stand.peer.due_revocations(NOW, limit=10) == [rows[1], rows[2], rows[0]]
        assert await stand.peer.due_revocations(NOW, limit=1) == [rows[1]]

    async def test_revocations_are_added_all_or_none(self, stand: Stand) -> None:
        await stand.store.add_revocations([revocation_row(1)])
        with pytest.raises(ValueError, match="there already"):
            await stand.store.add_revocations([revocation_row(2), revocation_row(1)])
        assert await stand.store.due_revocations(NOW, limit=10) == [revocation_row(1)]

    async def test_postponing_writes_tries_and_due_at(self, stand: Stand) -> None:
        await stand.store.add_revocations([revocation_row(1), revocation_row(2)])
        assert await stand.store.postpone_revocation("revocation-1", tries=1, due_at=NOW + 5.0)
        assert await stand.store.due_revocations(NOW, limit=10) == [revocation_row(2)]
        later = await stand.store.due_revocations(NOW + 5.0, limit=10)
        assert later == [revocation_row(2), revocation_row(1, due_at=NOW + 5.0, tries=1)]

    async def test_postponing_needs_one_try_less(self, stand: Stand) -> None:
        assert not await stand.store.postpone_revocation("revocation-1", tries=1, due_at=NOW)
        await stand.store.add_revocations([revocation_row(1, tries=1)])
        for tries in (0, 1, 3):
            assert not await stand.store.postpone_revocation("revocation-1", tries=tries, due_at=NOW + 5.0)
        assert await stand.store.due_revocations(NOW, limit=10) == [revocation_row(1, tries=1)]

    async def test_dropping_a_revocation(self, stand: Stand) -> None:
        await stand.store.add_revocations([revocation_row(1), revocation_row(2)])
        await stand.peer.drop_revocation("revocation-1")
        await stand.peer.drop_revocation("revocation-1")
        assert await stand.store.due_revocations(NOW, limit=10) == [revocation_row(2)]


class KeyConformance:
    async def test_keys_come_oldest_first(self, stand: Stand) -> None:
        assert not await stand.store.get_keys()
        young, old = wrapped_key("young", NOW), wrapped_key("old", NOW - 5.0)
        assert await stand.store.add_keys([young], first=False)
        assert await stand.store.add_keys([old], first=False)
        assert await stand.peer.get_keys() == [old, young]

    async def test_first_keys_need_an_empty_store(self, stand: Stand) -> None:
        assert await stand.store.add_keys([wrapped_key("a"), wrapped_key("b")], first=True)
        assert not await stand.peer.add_keys([wrapped_key("c")], first=True)
        assert [key.id for key in await stand.store.get_keys()] == ["a", "b"]

    @pytest.mark.parametrize("table", ["grants", "delegations", "outcomes", "revocations"])
    async def test_what_is_sealed_by_lost_keys_gets_no_others(self, stand: Stand, table: str) -> None:
        match table:
            case "grants":
                await stand.store.put_grant(grant_row(), replaces=None)
            case "delegations":
                await stand.store.put_delegation(delegation_row())
            case "outcomes":
                await stand.store.put_delegation(delegation_row(), outcome_row())
                await stand.store.take_delegation(delegation_row().key)
                await stand.store.end_taken(delegation_row(), outcome=outcome_row())
            case _:
                await stand.store.add_revocations([revocation_row()])
        assert not await stand.peer.add_keys([wrapped_key("a")], first=True)
        assert not await stand.store.get_keys()

    async def test_keys_are_added_all_or_none(self, stand: Stand) -> None:
        await stand.store.add_keys([wrapped_key("a")], first=True)
        with pytest.raises(ValueError, match="there already"):
            await stand.store.add_keys([wrapped_key("b"), wrapped_key("a")], first=False)
        assert [key.id for key in await stand.store.get_keys()] == ["a"]

    async def test_a_data_key_follows_the_one_it_was_made_after(self, stand: Stand) -> None:
        index = replace(wrapped_key("index", NOW + 1.0), purpose="index")
        await stand.store.add_keys([wrapped_key("first"), index], first=True)
        second = wrapped_key("second", NOW + 2.0)
        assert await stand.store.add_data_key(second, after="first")
        third = wrapped_key("third", NOW + 3.0)
        assert not await stand.peer.add_data_key(third, after="first")
        assert not await stand.peer.add_data_key(replace(third, kek="kek-2"), after="second")
        assert await stand.peer.get_keys() == [wrapped_key("first"), index, second]

    async def test_keys_are_rewrapped_all_or_none(self, stand: Stand) -> None:
        were = [wrapped_key("a"), wrapped_key("b", NOW + 1.0)]
        await stand.store.add_keys(were, first=True)
        await stand.store.count_seals("a", 7)
        anew = [replace(key, kek="kek-2", wrapped=b"anew " + key.id.encode()) for key in were]
        assert not await stand.peer.rewrap_keys(anew, were=were[:1])
        assert not await stand.peer.rewrap_keys(anew, were=[were[0], replace(were[1], wrapped=b"other")])
        assert [key.kek for key in await stand.store.get_keys()] == ["kek-1", "kek-1"]
        assert await stand.peer.rewrap_keys(anew, were=were)
        assert await stand.store.get_keys() == [replace(anew[0], seals=7), anew[1]]
        assert not await stand.peer.rewrap_keys(were, were=were)

    async def test_seals_are_counted(self, stand: Stand) -> None:
        await stand.store.add_keys([wrapped_key("a"), wrapped_key("b")], first=True)
        await stand.store.count_seals("a", 2**32)
        await stand.peer.count_seals("a", 5)
        await stand.peer.count_seals("unknown", 5)
        assert [key.seals for key in await stand.store.get_keys()] == [2**32 + 5, 0]

    async def test_a_data_key_is_dropped_once_nothing_is_sealed_by_it(self, stand: Stand) -> None:
        index = replace(wrapped_key("index"), purpose="index")
        await stand.store.add_keys([wrapped_key("a"), wrapped_key("b"), index], first=True)
        grant, delegation, revocation = await put_one_of_each(stand.store, HEAD)
        assert not await stand.store.drop_data_key("a", head=HEAD)
        await stand.store.forget_context(grant.key, version=grant.version)
        assert not await stand.store.drop_data_key("a", head=HEAD)
        await stand.store.purge_delegations(delegation.expires_at + 1.0, taken=delegation.expires_at + 1.0)
        assert not await stand.store.drop_data_key("a", head=HEAD)
        await stand.store.purge_delegations(outcome_row().purge_at + 1.0, taken=NOW)
        assert not await stand.store.drop_data_key("a", head=HEAD)
        await stand.store.drop_revocation(revocation.id)
        assert await stand.peer.drop_data_key("a", head=HEAD)
        assert not await stand.store.drop_data_key("a", head=HEAD)
        assert not await stand.store.drop_data_key("index", head=HEAD)
        assert [key.id for key in await stand.store.get_keys()] == ["b", "index"]


HEAD = b"sealed-by-"
assert len(HEAD) == SEALED_HEAD


async def put_one_of_each(store: Store, head: bytes) -> tuple[GrantRow, DelegationRow, RevocationRow]:
    """A leased grant, a taken delegation, its outcome, and a waiting revocation, of records that begin so."""
    grant = grant_row(sealed=head + b"grant", attempt=Attempt(failures=2, retry_at=NOW, reason="r"))
    delegation = replace(delegation_row(context=2), sealed=head + b"delegation")
    revocation = replace(revocation_row(), sealed=head + b"revocation")
    await store.put_grant(grant, replaces=None)
    await lease(store, grant)
    await store.put_delegation(delegation, outcome_row(context=2, sealed=head + b"outcome"))
    await store.take_delegation(delegation.key)
    await store.add_revocations([revocation])
    return grant, delegation, revocation


class ResealingConformance:
    async def test_records_are_found_by_what_they_begin_with(self, stand: Stand) -> None:
        grant, delegation, revocation = await put_one_of_each(stand.store, HEAD)
        await stand.store.put_grant(grant_row(7, sealed=b"sealed-by-another"[:9] + b"X"), replaces=None)
        found = await stand.peer.sealed_records(HEAD, limit=10)
        assert found == [
            SealedRecord("grants", grant.key, "acme", "consumer", "v1", grant.sealed),
            SealedRecord("delegations", delegation.key, "acme", "conversation", "", delegation.sealed),
            SealedRecord("outcomes", outcome_row().key, "acme", "conversation", "", HEAD + b"outcome"),
            SealedRecord("revocations", revocation.id.encode(), "acme", "", "", revocation.sealed),
        ]
        assert await stand.store.sealed_records(HEAD, limit=2) == found[:2]
        assert await stand.store.count_sealed(HEAD) == 4
        assert await stand.store.count_sealed(b"sealed-by+") == 0

    async def test_resealing_changes_the_seal_alone(self, stand: Stand) -> None:
        grant, delegation, revocation = await put_one_of_each(stand.store, HEAD)
        found = await stand.store.sealed_records(HEAD, limit=10)
        assert await stand.store.reseal([(record, b"anew " + record.sealed) for record in found]) == 4
        assert not await stand.store.sealed_records(HEAD, limit=10)
        attempt = replace(grant.attempt, leased=True, unanswered=1)
        anew = replace(grant, sealed=b"anew " + grant.sealed, attempt=attempt)
        assert await stand.peer.get_grant(grant.key) == anew
        assert await stand.peer.get_taken(delegation.key) == replace(
            delegation, sealed=b"anew " + delegation.sealed
        )
        anew_outcome = outcome_row(context=2, sealed=b"anew " + HEAD + b"outcome")
        assert await stand.peer.get_outcome(anew_outcome.key) == anew_outcome
        assert await stand.peer.due_revocations(NOW, limit=10) == [
            replace(revocation, sealed=b"anew " + revocation.sealed)
        ]
        assert await stand.store.release_lease(grant.key, owner="me", attempt=Attempt())

    async def test_what_was_sealed_anew_meanwhile_is_left_alone(self, stand: Stand) -> None:
        grant, delegation, revocation = await put_one_of_each(stand.store, HEAD)
        found = await stand.store.sealed_records(HEAD, limit=10)
        renewed = grant_row(version="v2", sealed=HEAD + b"renewed")
        await stand.peer.put_grant(renewed, replaces="v1")
        await stand.peer.purge_delegations(delegation.expires_at + 1.0, taken=delegation.expires_at + 1.0)
        assert await stand.store.reseal([(record, b"stale") for record in found]) == 2
        assert await stand.store.get_grant(grant.key) == renewed
        assert await stand.store.due_revocations(NOW, limit=10) == [replace(revocation, sealed=b"stale")]
        assert await stand.store.reseal([]) == 0


class StoreConformance(
    GrantConformance,
    ForgettingConformance,
    LeaseConformance,
    DelegationConformance,
    OutcomeConformance,
    TakenConformance,
    RevocationConformance,
    KeyConformance,
    ResealingConformance,
):
    """All of it."""
