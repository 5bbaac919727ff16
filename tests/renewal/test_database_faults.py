"""The database fails while sidecars renew: nothing is redeemed twice, and no answer is lost."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.adapters.test_postgres import holding
from tests.authserver import clients
from tests.authserver.fixtures import StartProvider
from tests.authserver.oidc import sha256
from tests.authserver.proxy import FaultProxy, held
from tests.e2e.vaults import eventually
from tests.postgres.server import PostgresServer
from tests.renewal.databases import AT_ONCE, Place, insist, is_not_ready, is_ready, make_place
from tests.renewal.seeding import BRAND
from tests.renewal.sidecars import running, several, tune
from tests.renewal.test_concurrency import redemptions
from tests.renewal.test_store_faults import logged
from tokenvault import AuthorizationServerUnavailable, StoreUnavailable

AWAY = "store: the database cannot be reached: check that it runs"


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """One that may be ended, and syncs."""
    with PostgresServer(durable=True) as server:
        yield server


@pytest.fixture
def rotate() -> bool:
    """Whether the authorization server rotates refresh tokens, and ends a family at a replay."""
    return True


@pytest.fixture
def place(
    tmp_path: Path,
    own_server: PostgresServer,
    start_provider: StartProvider,
    fault_proxy: FaultProxy,
    rotate: bool,
) -> Place:
    return make_place(
        tmp_path, own_server, start_provider(registrations=[clients.BASIC], rotate=rotate), fault_proxy
    )


@pytest.mark.parametrize("ends", [False, True], ids=["goes on", "is told to end"])
@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_an_answer_is_kept_until_the_database_is_back(place: Place, ends: bool, mode: str) -> None:
    await place.seed("alice")
    released = asyncio.Event()
    place.proxy.queue(held(released))
    async with running(place.config) as sidecar:
        reader = asyncio.create_task(sidecar.bot.get_token(BRAND, consumer="alice"))
        await place.proxy.until_acted(1)
        await asyncio.to_thread(place.server.stop, mode)
        try:
            released.set()
            await logged(sidecar.process, "renewal_unsaved")
            assert not reader.done()
            end = asyncio.create_task(asyncio.to_thread(sidecar.process.stop)) if ends else None
            if ends:
                await logged(sidecar.process, "stopping")
        finally:
            await asyncio.to_thread(place.server.start)
        token = await reader
        if end:
            assert await end == 0
    async with running(place.config) as sidecar:
        stored = await sidecar.bot.get_token(BRAND, consumer="alice")
    assert stored.token_version == token.token_version
    (redemption,) = redemptions(place.provider)
    assert redemption.access_token == sha256(stored.access_token)
    assert await place.works(stored)


async def test_away_callers_and_probes_are_told_at_once_and_nothing_restarts(place: Place) -> None:
    await place.seed("alice")
    async with several(place.config, 2) as sidecars:
        before = await sidecars[0].bot.get_token(BRAND, consumer="alice")
        await asyncio.to_thread(place.server.stop)
        try:
            for sidecar in sidecars:
                async with asyncio.timeout(AT_ONCE):
                    calls = [sidecar.bot.get_token(BRAND, consumer="alice") for _ in range(50)]
                    told = await asyncio.gather(*calls, return_exceptions=True)
                assert all(isinstance(error, StoreUnavailable) and error.retry_after for error in told)
                await eventually(lambda: is_not_ready(sidecar, AWAY))  # noqa: B023 awaited here
        finally:
            await asyncio.to_thread(place.server.start)
        for sidecar in sidecars:
            after = await insist(sidecar, "alice")
            assert after.token_version == before.token_version
            await eventually(lambda: is_ready(sidecar))  # noqa: B023 awaited here
            assert sidecar.process.returncode is None
    assert len(redemptions(place.provider)) == 1


async def test_slow_queries_hold_nobody_up(place: Place) -> None:
    """Somebody locks the table: callers are told within seconds; afterwards all is as it was."""
    await place.seed("alice")
    async with running(place.config) as sidecar:
        before = await sidecar.bot.get_token(BRAND, consumer="alice")
        with holding(place.server, place.server.settings(place.database), "LOCK TABLE grants"):
            async with asyncio.timeout(AT_ONCE):
                with pytest.raises(StoreUnavailable) as told:
                    await sidecar.bot.get_token(BRAND, consumer="alice")
            assert told.value.retry_after
        assert (await insist(sidecar, "alice")).token_version == before.token_version


@pytest.mark.parametrize("trouble", ["fast", "immediate", "cut"])
async def test_four_sidecars_renew_while_the_database_fails(place: Place, trouble: str) -> None:
    """Restarted twice, or all its connections ended over and over: each refresh token is redeemed once."""
    people = [f"consumer-{number}" for number in range(40)]
    await place.seed(*people)

    async def fail() -> None:
        for count in (5, 20):
            await eventually(lambda: place.redeemed(count))  # noqa: B023 awaited here
            await asyncio.to_thread(place.server.stop, trouble)
            await asyncio.to_thread(place.server.start)

    async def cut() -> None:
        while True:
            await asyncio.to_thread(place.server.disconnect, place.database)
            await asyncio.sleep(0.05)

    async with several(place.config, 4) as sidecars:
        failing = asyncio.create_task(cut() if trouble == "cut" else fail())
        asked = [insist(sidecar, person) for person in people for sidecar in sidecars]
        tokens = await asyncio.gather(*asked)
        if trouble == "cut":
            failing.cancel()
        with suppress(asyncio.CancelledError):
            await failing
        await place.renewed_once(sidecars[0], people, tokens)


@pytest.mark.parametrize("rotate", [False])
async def test_stopped_past_its_lease_it_overwrites_nothing(place: Place) -> None:
    """SIGSTOP while the server's answer is under way, SIGCONT once a peer has renewed.

    This server does not rotate: both redemptions were answered, and both answers are good.
    """
    tune(place.config, "renewal", redemption_deadline="2s", lease="3s")
    await place.seed("alice")
    released = asyncio.Event()
    place.proxy.queue(held(released))
    async with several(place.config, 2) as (stopped, peer):
        asleep = asyncio.create_task(stopped.bot.get_token(BRAND, consumer="alice"))
        await place.proxy.until_acted(1)
        os.kill(stopped.process.pid, signal.SIGSTOP)
        try:
            taken_over = await insist(peer, "alice")
            assert len(redemptions(place.provider)) == 2
            released.set()
        finally:
            os.kill(stopped.process.pid, signal.SIGCONT)
        with suppress(StoreUnavailable, AuthorizationServerUnavailable):
            assert (await asleep).token_version == taken_over.token_version
        for sidecar in (stopped, peer):
            assert (await insist(sidecar, "alice")).token_version == taken_over.token_version
    assert await place.works(taken_over)
    async with running(place.config) as sidecar:
        assert (await insist(sidecar, "alice")).token_version == taken_over.token_version
