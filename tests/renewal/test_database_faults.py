"""The database fails while sidecars renew: nothing is redeemed twice, and no answer is lost."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.adapters.test_postgres import holding
from tests.authserver import clients
from tests.authserver.fixtures import StartProvider
from tests.authserver.oidc import OidcProvider, sha256
from tests.authserver.plain_client import PlainClient
from tests.authserver.proxy import FaultProxy, held
from tests.e2e.vaults import eventually
from tests.ops.ports import get
from tests.postgres.server import PostgresServer, move_to
from tests.renewal.seeding import BRAND, LIFE, log_in, seeding
from tests.renewal.sidecars import Running, endpoints, running, several, tune
from tests.renewal.test_concurrency import redemptions
from tests.renewal.test_store_faults import logged
from tests.running import make_config
from tokenvault import AuthorizationServerUnavailable, StoreUnavailable, Token

EXPIRED = LIFE + 100
AT_ONCE = 20.0
"""Seconds that are more than any time-out, and less than a hang."""


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """One that may be ended, and syncs."""
    with PostgresServer(durable=True) as server:
        yield server


@dataclass(frozen=True, slots=True)
class Place:
    """A configuration for sidecars on a database of their own, and an authorization server behind a proxy."""

    config: Path
    server: PostgresServer
    database: str
    provider: OidcProvider
    proxy: FaultProxy

    async def works(self, token: Token) -> bool:
        client = PlainClient(self.provider, clients.BASIC)
        return (await client.userinfo(token.access_token)).status_code == 200


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
    provider = start_provider(registrations=[clients.BASIC], rotate=rotate)
    fault_proxy.forward_to(provider.port)
    config = make_config(tmp_path / "vault", provider, clients.BASIC)
    tune(config, f"brands.{BRAND}", **endpoints(provider, fault_proxy))
    tune(config, "renewal", redemption_deadline="50s", lease="90s")
    tune(config, "limits", rate=10_000, burst=10_000, concurrency=10_000)
    return Place(config, own_server, move_to(own_server, config), provider, fault_proxy)


async def seed(place: Place, *people: str) -> dict[str, str]:
    async with seeding(place.config) as seeder:
        return await seeder.add(await log_in(place.provider, clients.BASIC, people), age=EXPIRED)


async def insist(sidecar: Running, consumer: str) -> Token:
    """Ask as a bot does, again where it is told to wait."""
    async with asyncio.timeout(120):
        while True:
            try:
                return await sidecar.bot.get_token(BRAND, consumer=consumer)
            except (StoreUnavailable, AuthorizationServerUnavailable):
                await asyncio.sleep(0.1)


@pytest.mark.parametrize("ends", [False, True], ids=["goes on", "is told to end"])
@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_an_answer_is_kept_until_the_database_is_back(place: Place, ends: bool, mode: str) -> None:
    await seed(place, "alice")
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
    await seed(place, "alice")
    async with several(place.config, 2) as sidecars:
        before = await sidecars[0].bot.get_token(BRAND, consumer="alice")
        await asyncio.to_thread(place.server.stop)
        try:
            for sidecar in sidecars:
                async with asyncio.timeout(AT_ONCE):
                    calls = [sidecar.bot.get_token(BRAND, consumer="alice") for _ in range(50)]
                    told = await asyncio.gather(*calls, return_exceptions=True)
                assert all(isinstance(error, StoreUnavailable) and error.retry_after for error in told)
                await eventually(lambda: _is_not_ready(sidecar))  # noqa: B023 awaited here
        finally:
            await asyncio.to_thread(place.server.start)
        for sidecar in sidecars:
            after = await insist(sidecar, "alice")
            assert after.token_version == before.token_version
            await eventually(lambda: _is_ready(sidecar))  # noqa: B023 awaited here
            assert sidecar.process.returncode is None
    assert len(redemptions(place.provider)) == 1


async def _is_not_ready(sidecar: Running) -> bool:
    answer = await get(sidecar.process, "/readyz")
    return answer.status == 503 and "store: the database cannot be reached: check that it runs" in answer.text


async def _is_ready(sidecar: Running) -> bool:
    return (await get(sidecar.process, "/readyz")).status == 200


async def test_slow_queries_hold_nobody_up(place: Place) -> None:
    """Somebody locks the table: callers are told within seconds; afterwards all is as it was."""
    await seed(place, "alice")
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
    await seed(place, *people)

    async def fail() -> None:
        for count in (5, 20):
            await eventually(lambda: _redeemed(place, count))  # noqa: B023 awaited here
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
        stored = [await insist(sidecars[0], person) for person in people]
    assert [entry.status for entry in redemptions(place.provider)] == [200] * len(people)
    for number, token in enumerate(stored):
        assert {t.token_version for t in tokens[4 * number : 4 * number + 4]} == {token.token_version}
        assert await place.works(token)


async def _redeemed(place: Place, count: int) -> bool:
    return len(redemptions(place.provider)) >= count


@pytest.mark.parametrize("rotate", [False])
async def test_stopped_past_its_lease_it_overwrites_nothing(place: Place) -> None:
    """SIGSTOP while the server's answer is under way, SIGCONT once a peer has renewed.

    This server does not rotate: both redemptions were answered, and both answers are good.
    """
    tune(place.config, "renewal", redemption_deadline="2s", lease="3s")
    await seed(place, "alice")
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
