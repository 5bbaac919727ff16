"""The store fails between an authorization server's answer to a code and the commit: the login is kept."""

import asyncio
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.authserver import clients
from tests.authserver.consumer import Consumer
from tests.authserver.fixtures import StartProvider
from tests.authserver.oidc import OidcProvider
from tests.authserver.plain_client import PlainClient
from tests.authserver.proxy import FaultProxy, held
from tests.postgres.server import PostgresServer, move_to
from tests.renewal.seeding import BRAND
from tests.renewal.sidecars import Running, endpoints, running, several, tune
from tests.renewal.test_store_faults import logged
from tests.running import make_config
from tokenvault import AuthorizationServerUnavailable, Delegated, StateNotFound, StoreUnavailable

LONG = 60.0
"""Seconds; more than anything here takes."""


@dataclass
class Place:
    """A configuration for sidecars, and an authorization server behind a proxy that holds its next answer."""

    config: Path
    provider: OidcProvider
    proxy: FaultProxy
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def exchanges(self) -> int:
        return len(self.provider.token_requests(grant_type="authorization_code"))


@pytest.fixture
def place(tmp_path: Path, start_provider: StartProvider, fault_proxy: FaultProxy) -> Place:
    provider = start_provider(registrations=[clients.BASIC])
    fault_proxy.forward_to(provider.port)
    config = make_config(tmp_path / "vault", provider, clients.BASIC)
    tune(config, f"brands.{BRAND}", **endpoints(provider, fault_proxy))
    tune(config, "renewal", redemption_deadline="20s", lease="60s")
    tune(config, "server", drain_timeout="60s")
    place = Place(config, provider, fault_proxy)
    fault_proxy.queue(held(place.released))
    return place


async def log_in(place: Place, sidecar: Running) -> tuple[str, dict[str, str], asyncio.Task[Delegated]]:
    """Alice has logged in, and the server has answered; that answer is held."""
    started = await sidecar.bot.start_delegation(BRAND, consumer="alice")
    response = await Consumer().authorize(started.authorization_url)
    call = asyncio.create_task(sidecar.bot.complete_delegation(response))
    await place.proxy.until_acted(1)
    return started.delegation_id, response, call


async def insist(sidecar: Running, response: dict[str, str]) -> Delegated:
    """Show the response again for as long as the sidecar asks for that."""
    async with asyncio.timeout(LONG):
        while True:
            try:
                return await sidecar.bot.complete_delegation(response)
            except (StoreUnavailable, AuthorizationServerUnavailable) as error:
                await asyncio.sleep(min(error.retry_after or LONG, 0.2))


async def kept(place: Place, sidecar: Running, response: dict[str, str]) -> None:
    """The grant is there, from the one exchange; and the response is used up."""
    token = await sidecar.bot.get_token(BRAND, consumer="alice")
    answer = await PlainClient(place.provider, clients.BASIC).userinfo(token.access_token)
    assert answer.status_code == 200
    with pytest.raises(StateNotFound):
        await sidecar.bot.complete_delegation(response)
    assert place.exchanges() == 1


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """One that may be ended."""
    with PostgresServer(durable=True) as server:
        yield server


@asynccontextmanager
async def away(server: PostgresServer) -> AsyncIterator[None]:
    """The database has ended, until the end of this block."""
    await asyncio.to_thread(server.stop, "immediate")
    try:
        yield
    finally:
        await asyncio.to_thread(server.start)


@asynccontextmanager
async def full(config: Path, sidecar: Running) -> AsyncIterator[None]:
    """The disk is full, as far as the process can tell: its files may not grow (RLIMIT_FSIZE)."""
    log = config.with_name("tokenvault.db-wal")
    unlimited = resource.prlimit(sidecar.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(sidecar.process.pid, resource.RLIMIT_FSIZE, (log.stat().st_size, unlimited[1]))
    yield
    resource.prlimit(sidecar.process.pid, resource.RLIMIT_FSIZE, unlimited)


async def given_up_waiting(
    place: Place,
    sidecar: Running,
    call: asyncio.Task[Delegated],
    response: dict[str, str],
    trouble: AbstractAsyncContextManager[None],
) -> None:
    """The answer comes during the trouble, which outlasts the caller's wait."""
    async with trouble:
        place.released.set()
        with pytest.raises(StoreUnavailable, match="repeat this call") as told:
            await call
        assert told.value.retry_after
        await logged(sidecar.process, "delegation_unsaved")
        with pytest.raises((StoreUnavailable, AuthorizationServerUnavailable)):
            await sidecar.bot.complete_delegation(response)


async def test_the_database_is_away_and_another_sidecar_is_asked_again(
    place: Place, own_server: PostgresServer
) -> None:
    move_to(own_server, place.config)
    async with several(place.config, 2) as (sidecar, peer):
        delegation_id, response, call = await log_in(place, sidecar)
        await given_up_waiting(place, sidecar, call, response, away(own_server))
        done = await insist(peer, response)
        assert done == await peer.bot.watch_delegation(delegation_id)
        await kept(place, peer, response)


async def test_it_is_told_to_end_while_the_database_is_away(place: Place, own_server: PostgresServer) -> None:
    move_to(own_server, place.config)
    async with running(place.config) as sidecar:
        _, response, call = await log_in(place, sidecar)
        async with away(own_server):
            place.released.set()
            await logged(sidecar.process, "delegation_unsaved")
            end = asyncio.create_task(asyncio.to_thread(sidecar.process.stop))
            await logged(sidecar.process, "stopping")
            with pytest.raises(StoreUnavailable):
                await call
        assert await end == 0
    async with running(place.config) as sidecar:
        assert (await insist(sidecar, response)).granted_scopes
        await kept(place, sidecar, response)


async def test_the_disk_is_full_and_the_code_is_shown_once_there_is_room(place: Place) -> None:
    tune(place.config, f"brands.{BRAND}", confirmation_code=True)
    async with running(place.config) as sidecar:
        delegation_id, response, call = await log_in(place, sidecar)
        await given_up_waiting(place, sidecar, call, response, full(place.config, sidecar))
        done = await insist(sidecar, response)
        assert done.confirmation is not None
        await sidecar.bot.confirm_delegation(delegation_id, done.confirmation.code)
        await kept(place, sidecar, response)
