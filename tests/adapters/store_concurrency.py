"""What every store must do where many want the same at once. Its test module subclasses this, too."""

import asyncio
from dataclasses import replace

from tests.adapters.store_conformance import (
    NOW,
    Stand,
    delegation_row,
    grant_row,
    hold,
    lease,
    revocation_row,
    row_key,
    wrapped_key,
)
from tokenvault_sidecar.core.ports import Attempt


class ConcurrencyConformance:
    async def test_one_of_many_replaces_a_version(self, stand: Stand) -> None:
        await stand.store.put_grant(grant_row(), replaces=None)
        doors = (stand.store, stand.peer) * 20
        won = await asyncio.gather(
            *(door.put_grant(grant_row(version=f"w{i}"), replaces="v1") for i, door in enumerate(doors))
        )
        assert won.count(True) == 1
        assert await stand.store.get_grant(row_key(1)) == grant_row(version=f"w{won.index(True)}")

    async def test_one_of_many_makes_the_row(self, stand: Stand) -> None:
        doors = (stand.store, stand.peer) * 20
        won = await asyncio.gather(
            *(door.put_grant(grant_row(version=f"w{i}"), replaces=None) for i, door in enumerate(doors))
        )
        assert won.count(True) == 1

    async def test_one_of_many_changes_a_taken_delegation(self, stand: Stand) -> None:
        held = await hold(stand)
        doors = (stand.store, stand.peer) * 20
        won = await asyncio.gather(
            *(
                door.change_taken(replace(held, sealed=f"try {number}".encode()), was=held.sealed)
                for number, door in enumerate(doors)
            )
        )
        assert won.count(True) == 1
        left = await stand.store.get_taken(held.key)
        assert left is not None
        assert left.sealed == f"try {won.index(True)}".encode()

    async def test_one_of_many_forgets(self, stand: Stand) -> None:
        await stand.store.put_grant(grant_row(), replaces=None)
        doors = (stand.store, stand.peer) * 20
        won = await asyncio.gather(
            *(
                door.forget_context(row_key(1), version="v1", revocations=[revocation_row(i)])
                for i, door in enumerate(doors)
            )
        )
        assert won.count(True) == 1
        assert await stand.store.due_revocations(NOW, limit=99) == [revocation_row(won.index(True))]

    async def test_one_of_many_gets_the_lease(self, stand: Stand) -> None:
        row = grant_row()
        await stand.store.put_grant(row, replaces=None)
        doors = (stand.store, stand.peer) * 20
        won = await asyncio.gather(*(lease(door, row, owner=f"o{i}") for i, door in enumerate(doors)))
        assert won.count(True) == 1
        owner = f"o{won.index(True)}"
        assert await stand.store.release_lease(row.key, owner=owner, attempt=Attempt())

    async def test_one_of_many_takes_a_delegation(self, stand: Stand) -> None:
        row = delegation_row()
        await stand.store.put_delegation(row)
        doors = (stand.store, stand.peer) * 20
        won = await asyncio.gather(*(door.take_delegation(row.key) for door in doors))
        assert sum(taker is not None for taker in won) == 1

    async def test_one_of_many_postpones(self, stand: Stand) -> None:
        await stand.store.add_revocations([revocation_row()])
        doors = (stand.store, stand.peer) * 20
        won = await asyncio.gather(
            *(door.postpone_revocation("revocation-1", tries=1, due_at=NOW) for door in doors)
        )
        assert won.count(True) == 1

    async def test_one_of_many_adds_the_first_keys(self, stand: Stand) -> None:
        doors = (stand.store, stand.peer) * 10
        won = await asyncio.gather(
            *(
                door.add_keys([wrapped_key(f"data-{i}"), wrapped_key(f"index-{i}")], first=True)
                for i, door in enumerate(doors)
            )
        )
        assert won.count(True) == 1
        winner = won.index(True)
        assert [key.id for key in await stand.store.get_keys()] == [f"data-{winner}", f"index-{winner}"]

    async def test_one_of_many_adds_a_data_key(self, stand: Stand) -> None:
        await stand.store.add_keys([wrapped_key("first")], first=True)
        doors = (stand.store, stand.peer) * 10
        won = await asyncio.gather(
            *(door.add_data_key(wrapped_key(f"w{i}"), after="first") for i, door in enumerate(doors))
        )
        assert won.count(True) == 1
        assert [key.id for key in await stand.store.get_keys()] == ["first", f"w{won.index(True)}"]
