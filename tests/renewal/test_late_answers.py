"""Two sidecars' cores over one store. One sleeps past its lease: what it brings late is used by nobody.

And harms nobody: the server's revocation of one token ends its whole family.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.adapters.store_conformance import Stand
from tests.adapters.test_store_conformance import postgres, sqlite
from tests.authserver import clients
from tests.authserver.fixtures import StartProvider
from tests.authserver.oidc import OidcProvider
from tests.authserver.plain_client import PlainClient
from tests.authserver.proxy import FaultProxy, held
from tests.core.world import ALICE, World, keyring
from tests.renewal.seeding import BRAND, LIFE, Seeder, grant_of, log_in
from tests.renewal.sidecars import server_of
from tokenvault_sidecar.core.errors import GrantNotFound, ServerUnavailable
from tokenvault_sidecar.core.renewal import RenewalSettings
from tokenvault_sidecar.core.tokens import IssuedToken

WAIT = 30.0

PassTime = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Pair:
    """The one that is `asleep` while the server's answer to it is held, and its peer."""

    asleep: World
    peer: World
    provider: OidcProvider
    proxy: FaultProxy
    pass_time: PassTime

    async def fall_asleep(self, held_back: asyncio.Event) -> "asyncio.Task[IssuedToken]":
        """A redemption of which the server's answer is held; its lease is over."""
        self.proxy.queue(held(held_back))
        call = asyncio.create_task(self.asleep.get())
        await self.proxy.until_acted(self.proxy.acted() + 1)
        self.pass_time(2 * WAIT + 1)
        return call

    async def settle(self) -> None:
        await self.asleep.settle()
        await self.peer.settle()

    @property
    def client(self) -> PlainClient:
        return PlainClient(self.provider, clients.BASIC)

    async def works(self, token: IssuedToken) -> bool:
        """Whether the brand's API takes the token, and the grant can be renewed again."""
        if (await self.client.userinfo(token.access_token.reveal())).status_code != 200:
            return False
        renewed = await self.peer.get(rejected_version=token.version)
        return (await self.client.userinfo(renewed.access_token.reveal())).status_code == 200


@pytest.fixture(params=["sqlite", "postgres"])
async def doors(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stand]:
    """A store and another door to it."""
    if request.param == "sqlite":
        made = sqlite(tmp_path)
    else:
        server = request.getfixturevalue("postgres_server")
        made = postgres(server, server.settings(server.create_database()))
    async with made as stand:
        yield stand


@pytest.fixture
async def pair(doors: Stand, start_provider: StartProvider, fault_proxy: FaultProxy) -> AsyncIterator[Pair]:
    """The server does not rotate refresh tokens: it answers both, and both answers are good."""
    provider = start_provider(registrations=[clients.BASIC], rotate=False)
    fault_proxy.forward_to(provider.port)
    answers = await log_in(provider, clients.BASIC, ["alice"])
    keys = keyring()
    async with AsyncExitStack() as stack:
        worlds = []
        for store in (doors.store, doors.peer):
            world = World(
                store=store, keys=keys, wall=time.time, settings=RenewalSettings(WAIT, 2 * WAIT, 2 * WAIT)
            )
            server = server_of(provider, fault_proxy, deadline=WAIT)
            stack.push_async_callback(server.aclose)
            world.vault.servers = {BRAND: server}
            worlds.append(world)
        await Seeder(store, world.vault.sealer, margin=60.0).add(answers, age=LIFE + 100)
        pair = Pair(worlds[0], worlds[1], provider, fault_proxy, doors.pass_time)
        yield pair
        await pair.settle()


async def test_a_late_answer_leaves_the_peers_tokens_alone(pair: Pair) -> None:
    released = asyncio.Event()
    call = await pair.fall_asleep(released)
    token = await pair.peer.get()
    released.set()
    assert (await call).version == token.version
    await pair.settle()
    assert await pair.works(token)


async def test_a_late_answer_leaves_a_redemption_under_way_alone(pair: Pair) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    call = await pair.fall_asleep(first)
    pair.proxy.queue(held(second))
    taken_over = asyncio.create_task(pair.peer.get())
    await pair.proxy.until_acted(2)
    first.set()
    with pytest.raises(ServerUnavailable, match="taken this renewal over"):
        await call
    await pair.asleep.settle()
    second.set()
    assert await pair.works(await taken_over)


async def test_a_late_answer_does_not_overwrite_a_new_delegation(pair: Pair) -> None:
    released = asyncio.Event()
    call = await pair.fall_asleep(released)
    vault = pair.peer.vault
    key = vault.context_key(BRAND, ALICE)
    row = await vault.store.get_grant(key)
    assert row is not None
    (answer,) = (await log_in(pair.provider, clients.BASIC, ["alice"])).values()
    renewed = grant_of(BRAND, "alice", answer, time.time())
    assert await vault.store.put_grant(vault.row(key, renewed), replaces=row.version)
    released.set()
    assert (await call).version == renewed.tokens.version
    await pair.settle()
    token = await pair.peer.get()
    assert token.version == renewed.tokens.version
    assert await pair.works(token)
    (late,) = pair.provider.token_requests(grant_type="refresh_token")[:1]
    assert late.access_token in [e.presented for e in pair.provider.log() if e.event == "revocation"]


async def test_a_late_answer_resurrects_nothing(pair: Pair) -> None:
    released = asyncio.Event()
    call = await pair.fall_asleep(released)
    await pair.peer.tokens.invalidate(BRAND, ALICE)
    await pair.peer.settle()
    released.set()
    with pytest.raises(GrantNotFound):
        await call
    await pair.settle()
    assert await pair.peer.row_of() is None
    (late,) = pair.provider.token_requests(grant_type="refresh_token")
    assert late.access_token in [e.presented for e in pair.provider.log() if e.event == "revocation"]
