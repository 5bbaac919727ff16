"""Data keys are rotated, and records sealed anew, beside sidecars that serve and renew."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.core.world import ALICE, CHAT, KEK, World
from tests.fakes.memory_store import MemoryStore
from tokenvault_sidecar.adapters.kek import FileKek, KeyringError
from tokenvault_sidecar.adapters.keyring import KeyKeeper
from tokenvault_sidecar.core.errors import StoreUnavailable
from tokenvault_sidecar.core.model import Context, ContextKind
from tokenvault_sidecar.core.rotation import BATCH, COARSE, SETTLED, Rotation, RotationSettings

# each leaves a grant and an outcome
MANY = 2 * BATCH + 7


@pytest.fixture
async def world() -> AsyncIterator[World]:
    store = MemoryStore()
    keys = await KeyKeeper.open(store, [KEK], World().clock())
    made = World(store=store, keys=keys.keyring)
    yield made
    await made.settle()


async def peer_of(world: World) -> World:
    """Another process: it has a keyring of its own."""
    keys = await KeyKeeper.open(world.store, [KEK], None)
    return World(store=world.store, clock=world.clock, server=world.server, keys=keys.keyring)


async def reseal_all(world: World) -> int:
    total = 0
    while done := await world.rotation.reseal():
        total += done
    return total


async def delegate_many(world: World, count: int = MANY) -> list[Context]:
    contexts = [Context(ContextKind.CONSUMER, f"c-{number}") for number in range(count)]
    for context in contexts:
        await world.delegate(context)
    return contexts


async def test_every_record_is_sealed_anew_and_serves_on(world: World) -> None:
    contexts = await delegate_many(world)
    url = await world.challenge(CHAT)  # pending
    await world.delegate(ALICE)
    tokens = {context: await world.get(context) for context in contexts}
    old = world.keys.active
    assert await world.rotation.begin()
    assert world.keys.active != old
    assert await world.rotation.waiting() == 2 * (MANY + 2)
    assert await reseal_all(world) == 2 * (MANY + 2)
    assert await world.rotation.waiting() == 0
    assert {context: await world.get(context) for context in contexts} == tokens
    await world.complete(url)
    assert (await world.get(CHAT)).access_token


async def test_a_peer_opens_what_a_newer_key_has_sealed(world: World) -> None:
    await world.delegate(ALICE)
    peer = await peer_of(world)
    await world.rotation.begin()
    await reseal_all(world)
    assert (await peer.get(ALICE)).version == (await world.get(ALICE)).version
    assert peer.keys.active == world.keys.active


async def test_a_peer_that_knows_not_yet_goes_on_sealing_by_the_old_key(world: World) -> None:
    peer = await peer_of(world)
    await world.rotation.begin()
    await peer.delegate(ALICE)
    assert await world.rotation.waiting() == 2
    assert (await world.get(ALICE)).access_token
    await peer.housekeeping.look_at_keys()
    assert await reseal_all(peer) == 2
    assert (await world.get(ALICE)).access_token


async def test_two_that_rotate_at_once_add_one_key(world: World) -> None:
    peers = [world, await peer_of(world), await peer_of(world)]
    await delegate_many(world, 1)
    world.clock.advance(86400.0)
    for peer in peers:
        peer.rotation.settings = RotationSettings(after=86400.0, after_seals=100)
    begun = await asyncio.gather(*(peer.rotation.begin_if_due() for peer in peers))
    assert sorted(begun) == [False, False, True]
    for peer in peers:
        await peer.housekeeping.look_at_keys()
        assert len(peer.keys.data_keys) == 2
        assert peer.keys.active == world.keys.active


async def test_one_that_has_not_seen_a_peer_s_new_key_goes_by_that(world: World) -> None:
    peer = await peer_of(world)
    assert await world.rotation.begin()
    assert not await peer.rotation.begin()
    assert peer.keys.active == world.keys.active


async def test_an_old_key_is_deleted_once_nothing_can_be_sealed_by_it(world: World) -> None:
    await world.delegate(ALICE)
    old = world.keys.active
    await world.rotation.begin()
    world.clock.advance(SETTLED + 1)
    assert await world.rotation.drop_old() == []  # records need it
    await reseal_all(world)
    world.clock.now -= 2
    assert await world.rotation.drop_old() == []  # a process may be at writing by it
    world.clock.advance(2)
    assert await world.rotation.drop_old() == [old]
    assert world.keys.data_keys == (world.keys.active,)
    assert [key.id for key in await world.store.get_keys() if key.purpose == "data"] == [world.keys.active]
    assert await world.vault.grant(world.vault.context_key("acme", ALICE)) is not None


async def test_what_cannot_be_opened_stays_and_keeps_its_key(world: World) -> None:
    contexts = await delegate_many(world, 3)
    store = world.store
    assert isinstance(store, MemoryStore)
    key = world.vault.context_key("acme", contexts[1])
    row = store.grants[key]
    store.grants[key] = type(row)(
        row.key, row.brand, row.kind, row.version, row.sealed[:-1] + b"!", row.purge_at
    )
    await world.rotation.begin()
    assert await reseal_all(world) == 6
    assert await world.rotation.waiting() == 1
    world.clock.advance(SETTLED + 1)
    assert await world.rotation.drop_old() == []
    assert [facts["table"] for name, facts in world.events.events if name == "unreadable_kept"] == ["grants"]
    with pytest.raises(StoreUnavailable, match="not authentic"):
        await world.get(contexts[1])


async def test_seals_are_counted_for_the_key_that_made_them(world: World) -> None:
    await delegate_many(world, 5)
    old = world.keys.active
    await world.rotation.begin()
    await reseal_all(world)
    assert world.keys.unsaved < COARSE
    await world.rotation.save_count()
    seals = {key.id: key.seals for key in await world.store.get_keys()}
    assert seals[old] >= 10  # each delegation, and each grant
    assert seals[world.keys.active] == 10
    assert world.keys.unsaved == 0


async def test_the_clock_set_back_leaves_the_new_key_the_newest(world: World) -> None:
    old = world.keys.active
    world.clock.advance(-86400)
    await world.rotation.begin()
    peer = await peer_of(world)
    assert peer.keys.active == world.keys.active != old


@pytest.mark.parametrize("cause", ["age", "seals"])
async def test_a_key_that_has_sealed_long_enough_is_rotated(world: World, cause: str) -> None:
    world.rotation.settings = RotationSettings(after=86400.0, after_seals=100)
    old = world.keys.active
    await delegate_many(world, 3)
    assert await world.housekeeping.reseal() == 0
    assert world.keys.active == old
    if cause == "age":
        world.clock.advance(86400.0)
    else:
        await delegate_many(world, 40)
    assert await world.housekeeping.reseal() == 1
    assert world.keys.active != old
    assert await world.housekeeping.reseal() > 0
    assert await world.housekeeping.reseal() == 0
    assert await world.rotation.waiting() == 0


async def test_a_kek_that_is_away_costs_nothing_but_the_rotation(world: World) -> None:
    class Away(FileKek):
        def wrap(self, key: bytes, *, name: str) -> bytes:
            raise KeyringError("the token is not there: plug it in")

    keys = await KeyKeeper.open(world.store, [Away(b"K" * 32)], None)
    away = World(store=world.store, clock=world.clock, server=world.server, keys=keys.keyring)
    rotation = Rotation(away.store, away.vault.sealer, keys, away.clock, away.events)
    with pytest.raises(StoreUnavailable, match="plug it in"):
        await rotation.begin()
    await away.delegate(ALICE)
    assert (await away.get(ALICE)).access_token


async def test_keys_are_rewrapped_and_open_by_the_new_kek_alone(world: World) -> None:
    new = FileKek(b"N" * 32)
    await world.delegate(ALICE)
    both = await KeyKeeper.open(world.store, [new, KEK], None)
    assert await both.rewrap() == 2
    assert await both.rewrap() == 0
    assert {key.kek for key in await world.store.get_keys()} == {new.fingerprint}
    await KeyKeeper.open(world.store, [new], None)
    with pytest.raises(KeyringError, match="is wrapped by KEK"):
        await KeyKeeper.open(world.store, [KEK], None)
    assert (await world.get(ALICE)).access_token  # it holds the opened keys


async def test_a_new_key_is_opened_by_whom_the_others_are(world: World) -> None:
    """Before and after all are wrapped by another KEK, and by whom that is not known no key is added."""
    new = FileKek(b"N" * 32)
    old = await KeyKeeper.open(world.store, [KEK], None)
    both = await KeyKeeper.open(world.store, [new, KEK], None)
    assert await both.add(world.clock(), after=both.keyring.active)
    await old.refresh()
    assert old.keyring.active == both.keyring.active
    assert await both.rewrap() == 3
    with pytest.raises(StoreUnavailable, match="is wrapped by KEK"):
        await old.add(world.clock(), after=old.keyring.active)
    assert await both.add(world.clock(), after=both.keyring.active)
    await KeyKeeper.open(world.store, [new], None)


async def test_a_rotation_that_has_to_wait_says_why(world: World) -> None:
    """Nothing else does: what is stored is opened and sealed as before."""
    both = await KeyKeeper.open(world.store, [FileKek(b"N" * 32), KEK], None)
    await both.rewrap()
    with pytest.raises(StoreUnavailable):
        await world.rotation.begin()
    (problem,) = (facts["problem"] for event, facts in world.events.events if event == "rotation_waits")
    assert f"the KEK given is {KEK.fingerprint}" in str(problem)
    await world.delegate(ALICE)
    assert (await world.get(ALICE)).access_token


async def test_a_key_that_is_added_while_all_are_rewrapped_is_wrapped_by_the_new_kek(world: World) -> None:
    new = FileKek(b"N" * 32)

    class Slow(FileKek):
        def wrap(self, key: bytes, *, name: str) -> bytes:
            asyncio.run_coroutine_threadsafe(rewrapping.rewrap(), loop).result(30)
            return super().wrap(key, name=name)

    loop = asyncio.get_running_loop()
    rewrapping = await KeyKeeper.open(world.store, [new, KEK], None)
    keys = await KeyKeeper.open(world.store, [new, Slow(b"K" * 32)], None)
    assert await keys.add(world.clock(), after=keys.keyring.active)
    assert {key.kek for key in await world.store.get_keys()} == {new.fingerprint}
    assert len(keys.keyring.data_keys) == 2


async def test_a_kek_that_does_not_open_the_keys_is_not_taken(world: World) -> None:
    keys = await KeyKeeper.open(world.store, [KEK], None)
    with pytest.raises(KeyringError, match="is wrapped by KEK"):
        await keys.use([FileKek(b"N" * 32)])
    assert await keys.add(world.clock(), after=keys.keyring.active)
    await KeyKeeper.open(world.store, [KEK], None)


async def test_housekeeping_seals_anew(world: World) -> None:
    await delegate_many(world, 3)
    peer = await peer_of(world)
    await world.rotation.begin()
    await peer.housekeeping.look_at_keys()
    assert await peer.housekeeping.reseal() == 6
    assert await peer.housekeeping.reseal() == 0
    assert await world.rotation.waiting() == 0
