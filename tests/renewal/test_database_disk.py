"""The disk of the database is full while sidecars renew: callers are told, and no answer is lost."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from tests.authserver import clients
from tests.authserver.fixtures import StartProvider
from tests.authserver.oidc import sha256
from tests.authserver.proxy import Fault, FaultProxy, held
from tests.e2e.vaults import eventually
from tests.postgres.disk import SmallDisk, small_disk
from tests.postgres.far import NotHere
from tests.postgres.server import PostgresServer
from tests.renewal.databases import AT_ONCE, Place, insist, is_not_ready, is_ready, make_place
from tests.renewal.seeding import BRAND
from tests.renewal.sidecars import Running, running, several
from tests.renewal.test_concurrency import redemptions
from tests.renewal.test_store_faults import large, logged
from tokenvault import StoreUnavailable

FULL = "the database cannot be used, its disk is full: free space (53100)"
DISK = 128
"""Megabytes: a server's own 40, a database's 8, and its log."""


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    try:
        with small_disk(megabytes=DISK) as disk:
            yield disk
    except NotHere as why:
        pytest.skip(f"DID NOT RUN: a database on a disk that is full: {why}")


@pytest.fixture
def server(disk: SmallDisk) -> Iterator[PostgresServer]:
    """Its log lies beside its tables, and grows by a file of 16 MB at a time."""
    settings = {"min_wal_size": "32MB", "max_wal_size": "1GB"}
    with PostgresServer(durable=True, disk=disk.folder, settings=settings) as server:
        yield server


@pytest.fixture
def place(
    tmp_path: Path, server: PostgresServer, start_provider: StartProvider, fault_proxy: FaultProxy
) -> Place:
    """The authorization server rotates refresh tokens, and ends a family at a replay."""
    return make_place(
        tmp_path, server, start_provider(registrations=[clients.BASIC], rotate=True), fault_proxy
    )


async def told(sidecar: Running) -> StoreUnavailable:
    """What somebody is who would have something written, at once."""
    async with asyncio.timeout(AT_ONCE):
        with pytest.raises(StoreUnavailable) as told:
            await sidecar.bot.start_delegation(BRAND, consumer="carol")
    assert told.value.retry_after
    return told.value


async def test_no_room_for_a_row(place: Place, disk: SmallDisk) -> None:
    """Tables cannot grow. What is stored is served; an answer is kept until there is room."""
    await place.seed("alice")
    living = await place.seed("bob", age=0)
    released = asyncio.Event()
    place.proxy.queue(Fault("held and large", after=released, answer=large))
    async with running(place.config) as sidecar:
        reader = asyncio.create_task(sidecar.bot.get_token(BRAND, consumer="alice"))
        await place.proxy.until_acted(1)
        assert await is_ready(sidecar)
        disk.fill()
        try:
            released.set()
            await logged(sidecar.process, "renewal_unsaved")
            assert FULL in str(await told(sidecar))
            await eventually(lambda: is_not_ready(sidecar, f"store: {FULL}"))
            served = await sidecar.bot.get_token(BRAND, consumer="bob")
            assert served.token_version == living["bob"]
            assert not reader.done()
        finally:
            disk.free()
        token = await reader
        await eventually(lambda: is_ready(sidecar))
        await insist(sidecar, "alice")
        await sidecar.bot.start_delegation(BRAND, consumer="carol")
    async with running(place.config) as sidecar:
        stored = await sidecar.bot.get_token(BRAND, consumer="alice")
    assert stored.token_version == token.token_version
    (redemption,) = redemptions(place.provider)
    assert redemption.access_token == sha256(stored.access_token)
    assert await place.works(stored)


async def test_no_room_for_the_log(place: Place, disk: SmallDisk) -> None:
    """The server panics while the answers to four sidecars are on their way."""
    people = [f"consumer-{number}" for number in range(40)]
    await place.seed(*people)
    released = asyncio.Event()
    place.proxy.set(held(released))

    def crash() -> None:
        """Have it want new files for its log."""
        with suppress(psycopg.OperationalError):
            while True:
                disk.fill()
                place.server.sql("SELECT pg_switch_wal(), txid_current()")

    async with several(place.config, 4) as sidecars:
        asked = [asyncio.create_task(insist(sidecar, person)) for person in people for sidecar in sidecars]
        await place.proxy.until_acted(20)
        await asyncio.to_thread(crash)
        try:
            released.set()
            for sidecar in sidecars:
                await told(sidecar)
                await eventually(lambda: is_not_ready(sidecar, "store: the database"))  # noqa: B023 awaited here
        finally:
            disk.free()
            await asyncio.to_thread(place.server.recover)
        tokens = await asyncio.gather(*asked)
        for sidecar in sidecars:
            await eventually(lambda: is_ready(sidecar))  # noqa: B023 awaited here
        await place.renewed_once(sidecars[0], people, tokens)
        assert any("renewal_unsaved" in sidecar.process.stderr.read_text() for sidecar in sidecars)
    assert "PANIC" in place.server.log
