"""The store fails while the answer of a redemption arrives: the tokens are kept until it takes them."""

import asyncio
import json
import resource
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.adapters.test_postgres import holding
from tests.adapters.test_store_conformance import postgres as postgres_stand
from tests.authserver import clients
from tests.authserver.fixtures import StartProvider
from tests.authserver.oidc import OidcProvider, sha256
from tests.authserver.plain_client import PlainClient
from tests.authserver.proxy import Fault, FaultProxy, held, status
from tests.core.world import HandClock, World
from tests.postgres.server import PostgresServer
from tests.renewal.seeding import BRAND, LIFE, Seeder, log_in, seeding
from tests.renewal.sidecars import Running, endpoints, running, server_of, tune
from tests.running import SidecarProcess, make_config
from tokenvault_sidecar.adapters.clock import read_boot_id
from tokenvault_sidecar.adapters.sqlite import SqliteStore
from tokenvault_sidecar.adapters.sqlite_file import open_file
from tokenvault_sidecar.adapters.sqlite_writer import Writer
from tokenvault_sidecar.core.errors import ConsentRequired, ServerUnavailable, StoreUnavailable, VaultError
from tokenvault_sidecar.core.ports import Store
from tokenvault_sidecar.core.renewal import RenewalSettings

EXPIRED, NEARLY = LIFE + 100, LIFE - 100
WAIT = 30.0


Trouble = Callable[[], AbstractAsyncContextManager[None]]
"""While it lasts, nothing can be written."""


@dataclass(frozen=True, slots=True)
class Faulty:
    """A store that can be had fail in two ways. `pass_lease_time` moves its leases' clock, in seconds."""

    store: Store
    full: Trouble
    locked: Trouble
    pass_lease_time: Callable[[float], None]


@dataclass(slots=True)
class Place:
    """A sidecar's core over a store and a real server.

    `released` lets what the proxy holds through; `redeemed` is the seeded
    refresh token's SHA-256.
    """

    world: World
    provider: OidcProvider
    proxy: FaultProxy
    faulty: Faulty
    released: asyncio.Event
    redeemed: str = ""

    async def acted(self) -> None:
        """Wait until the server has used the refresh token up."""
        await self.proxy.until_acted(1)

    async def unsaved(self) -> None:
        """Wait until the store has refused the answer."""
        async with asyncio.timeout(WAIT):
            while "renewal_unsaved" not in [name for name, _ in self.world.events.events]:  # noqa: ASYNC110 a list
                await asyncio.sleep(0.01)

    async def good(self, access_token: str) -> None:
        """The token is the one issued for the one redemption, and works."""
        acted = [e for e in self.provider.token_requests() if e.presented == self.redeemed]
        assert [entry.access_token for entry in acted] == [sha256(access_token)]
        client = PlainClient(self.provider, clients.BASIC)
        assert (await client.userinfo(access_token)).status_code == 200


def large(answer: bytes) -> bytes:
    """The answer with more scopes than fit in the pages the file has."""
    body = json.loads(answer.partition(b"\r\n\r\n")[2])
    payload = json.dumps({**body, "scope": f"{body['scope']} {'x' * 20_000}"}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(payload), payload)


@asynccontextmanager
async def sqlite(path: Path) -> AsyncIterator[Faulty]:
    reader, writer = open_file(path, lock_timeout=WAIT)
    lease_clock = HandClock()
    store = SqliteStore(
        reader,
        Writer(writer, lock_timeout=0.05),
        path=path,
        lease_clock=lease_clock,
        boot_id=read_boot_id(),
    )

    @asynccontextmanager
    async def full() -> AsyncIterator[None]:
        """The file may not grow: SQLITE_FULL, as of a full disk."""
        ((pages,),) = writer.execute("PRAGMA page_count").fetchall()
        writer.execute(f"PRAGMA max_page_count = {pages}").fetchall()
        yield
        writer.execute("PRAGMA max_page_count = 1000000").fetchall()

    def locked() -> AbstractAsyncContextManager[None]:
        return another_writes(path)

    yield Faulty(store, full, locked, lease_clock.advance)
    await store.close()


@asynccontextmanager
async def another_writes(path: Path) -> AsyncIterator[None]:
    """Another process holds the file's write lock: SQLITE_BUSY."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.adapters.store_process", "hold_lock", str(path),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert await asyncio.wait_for(process.stdout.readline(), WAIT) == b"locked\n"
        yield
        await asyncio.wait_for(process.communicate(b"enough\n"), WAIT)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


REFUSE = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE 'no room' USING ERRCODE = 'disk_full'; END $$
"""
NO_ROOM = "CREATE TRIGGER no_room BEFORE INSERT OR UPDATE ON grants EXECUTE FUNCTION refuse()"
ROOM = "DROP TRIGGER no_room ON grants"


@asynccontextmanager
async def postgres(server: PostgresServer) -> AsyncIterator[Faulty]:
    """Its disk is really full in `test_database_disk.py`."""
    settings = server.settings(server.create_database())
    server.sql(f"ALTER DATABASE {settings.database} SET lock_timeout = '50ms'")
    server.sql(REFUSE, settings.database)

    @asynccontextmanager
    async def full() -> AsyncIterator[None]:
        """Rows are not written for want of room."""
        server.sql(NO_ROOM, settings.database)
        yield
        server.sql(ROOM, settings.database)

    @asynccontextmanager
    async def locked() -> AsyncIterator[None]:
        """A tool lets others read only."""
        with holding(server, settings, "LOCK TABLE grants IN EXCLUSIVE MODE"):
            yield

    async with postgres_stand(server, settings) as stand:
        yield Faulty(stand.store, full, locked, stand.pass_time)


@pytest.fixture(params=["sqlite", "postgres"])
async def faulty(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Faulty]:
    if request.param == "sqlite":
        made = sqlite(tmp_path / "vault.db")
    else:
        made = postgres(request.getfixturevalue("postgres_server"))
    async with made as faulty:
        yield faulty


@pytest.fixture(params=["full", "locked"])
def trouble(request: pytest.FixtureRequest, faulty: Faulty) -> Trouble:
    made: Trouble = getattr(faulty, request.param)
    return made


@pytest.fixture
def patience() -> float:
    """How long a caller waits for a redemption, in seconds."""
    return 2 * WAIT


@pytest.fixture
async def place(
    faulty: Faulty, oidc_provider: OidcProvider, fault_proxy: FaultProxy, patience: float
) -> AsyncIterator[Place]:
    fault_proxy.forward_to(oidc_provider.port)
    world = World(store=faulty.store, wall=time.time, settings=RenewalSettings(WAIT, 2 * WAIT, patience))
    server = server_of(oidc_provider, fault_proxy, deadline=WAIT)
    world.vault.servers = {BRAND: server}
    yield Place(world, oidc_provider, fault_proxy, faulty, asyncio.Event())
    await world.settle()
    await server.aclose()


async def seed(place: Place, *, age: float) -> str:
    """Alice's grant; the answer to its redemption will be held, and large."""
    answers = await log_in(place.provider, clients.BASIC, ["alice"])
    seeder = Seeder(place.faulty.store, place.world.vault.sealer, margin=60.0)
    place.redeemed = sha256(str(answers["alice"]["refresh_token"]))
    place.proxy.queue(Fault("held and large", after=place.released, answer=large))
    return (await seeder.add(answers, age=age))["alice"]


async def test_redeemed_tokens_are_kept_until_the_store_takes_them(place: Place, trouble: Trouble) -> None:
    old = await seed(place, age=EXPIRED)
    reader = asyncio.create_task(place.world.get())
    await place.acted()
    async with trouble():
        place.released.set()
        await place.unsaved()
        another = asyncio.create_task(place.world.get())
        await asyncio.sleep(0)
        assert not reader.done()
    tokens = await asyncio.gather(reader, another)
    stored = await place.world.get()
    assert {token.version for token in tokens} == {stored.version} != {old}
    await place.good(stored.access_token.reveal())


@pytest.mark.parametrize("patience", [0.2])
async def test_a_caller_with_less_patience_gets_a_typed_error(place: Place, trouble: Trouble) -> None:
    await seed(place, age=EXPIRED)
    with pytest.raises(ServerUnavailable, match="ask again"):
        await place.world.get()
    await place.acted()
    async with trouble():
        place.released.set()
        await place.unsaved()
        with pytest.raises(ServerUnavailable, match="ask again") as error:
            await place.world.get()
        assert error.value.retry_after
    await place.world.settle()
    await place.good((await place.world.get()).access_token.reveal())


@pytest.mark.parametrize("patience", [0.2])
async def test_a_token_that_lives_is_served_meanwhile(place: Place, trouble: Trouble) -> None:
    old = await seed(place, age=NEARLY)
    assert (await place.world.get(min_ttl=300)).degraded
    await place.acted()
    async with trouble():
        place.released.set()
        await place.unsaved()
        token = await place.world.get(min_ttl=300)
        assert token.degraded
        assert token.version == old
    await place.world.settle()
    renewed = await place.world.get(min_ttl=300)
    assert not renewed.degraded
    await place.good(renewed.access_token.reveal())


async def test_a_store_that_takes_no_lease_costs_no_redemption(place: Place) -> None:
    await seed(place, age=EXPIRED)
    async with place.faulty.locked():
        with pytest.raises(StoreUnavailable, match="lock"):
            await place.world.get()
    assert place.proxy.count() == 0
    place.released.set()
    await place.good((await place.world.get()).access_token.reveal())


async def test_failures_that_the_store_could_not_note_cost_no_grant(place: Place) -> None:
    """The server says that it did not act, twice, while the store is locked: asked once more, it answers."""
    await seed(place, age=EXPIRED)
    place.proxy.clear()
    for _ in range(2):
        await fail_unnoted(place, replace(status(503), before=place.released))
    await place.good((await place.world.get()).access_token.reveal())


async def test_a_refusal_that_the_store_could_not_note_is_not_asked_for_again(place: Place) -> None:
    await seed(place, age=EXPIRED)
    place.proxy.clear()
    refusal = b'{"error":"invalid_grant"}'
    said = b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%s" % (len(refusal), refusal)
    await fail_unnoted(
        place, Fault("invalid_grant", before=place.released, forward=False, answer=lambda _: said)
    )
    with pytest.raises(ConsentRequired):
        await place.world.get()
    assert place.proxy.count() == 1


async def fail_unnoted(place: Place, fault: Fault) -> None:
    """A redemption that meets this fault while the store is locked; then its lease and back-off end."""
    place.released.clear()
    place.proxy.queue(fault)
    before = place.proxy.count()
    call = asyncio.create_task(place.world.get())
    await place.proxy.until_count(before + 1)
    async with place.faulty.locked():
        place.released.set()
        await asyncio.wait({call}, timeout=0.5)
    with pytest.raises(VaultError) as error:
        await call
    await asyncio.sleep((error.value.retry_after or 0.0) + 0.05)
    place.faulty.pass_lease_time(2 * WAIT + 1)


@pytest.mark.parametrize("ends", [False, True], ids=["goes on", "is told to end"])
async def test_a_process_whose_disk_fails(
    tmp_path: Path, start_provider: StartProvider, fault_proxy: FaultProxy, ends: bool
) -> None:
    """An I/O error or full disk of the whole process."""
    provider = start_provider(registrations=[clients.BASIC])
    fault_proxy.forward_to(provider.port)
    config = make_config(tmp_path / "vault", provider, clients.BASIC)
    tune(config, f"brands.{BRAND}", **endpoints(provider, fault_proxy))
    tune(config, "renewal", redemption_deadline="50s", lease="90s")
    async with seeding(config) as seeder:
        await seeder.add(await log_in(provider, clients.BASIC, ["alice"]), age=EXPIRED)
    released = asyncio.Event()
    fault_proxy.queue(held(released))
    async with running(config) as sidecar:
        reader = asyncio.create_task(sidecar.bot.get_token(BRAND, consumer="alice"))
        await fault_proxy.until_acted(1)
        with growing_no_file(config, sidecar):
            released.set()
            await logged(sidecar.process, "renewal_unsaved")
            assert not reader.done()
            end = asyncio.create_task(asyncio.to_thread(sidecar.process.stop)) if ends else None
            if ends:
                await logged(sidecar.process, "stopping")
        token = await reader
        if end:
            assert await end == 0
    async with running(config) as sidecar:
        stored = await sidecar.bot.get_token(BRAND, consumer="alice")
    assert stored.token_version == token.token_version
    (redemption,) = provider.token_requests(grant_type="refresh_token")
    assert redemption.access_token == sha256(stored.access_token)


@contextmanager
def growing_no_file(config: Path, *sidecars: Running) -> Iterator[None]:
    """These processes' files may not grow (RLIMIT_FSIZE): SQLite's log is the longest."""
    size = config.with_name("tokenvault.db-wal").stat().st_size
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    for sidecar in sidecars:
        resource.prlimit(sidecar.process.pid, resource.RLIMIT_FSIZE, (size, unlimited[1]))
    try:
        yield
    finally:
        for sidecar in sidecars:
            resource.prlimit(sidecar.process.pid, resource.RLIMIT_FSIZE, unlimited)


async def logged(process: SidecarProcess, event: str) -> None:
    """Wait until the sidecar's log has this event."""
    async with asyncio.timeout(WAIT):
        while event not in process.stderr.read_text():  # noqa: ASYNC110 another process writes it
            await asyncio.sleep(0.02)
