"""A sidecar is cut off from its database, or from its authorization server: nobody is told, nothing comes."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.authserver import clients
from tests.authserver.fixtures import StartProvider
from tests.authserver.oidc import OidcProvider, sha256
from tests.authserver.proxy import Fault, FaultProxy, held
from tests.e2e.vaults import connect, eventually
from tests.e2e.vaults import running as vault
from tests.ops.ports import get
from tests.postgres.far import FarHost, NotHere, far_host
from tests.postgres.server import PostgresServer, move_to
from tests.renewal.seeding import BRAND, LIFE, log_in, seeding
from tests.renewal.sidecars import Running, endpoints, running, tune
from tests.renewal.test_concurrency import redemptions
from tests.renewal.test_store_faults import logged
from tests.running import make_config
from tokenvault import AuthorizationServerUnavailable, StoreUnavailable, Token
from tokenvault_sidecar.devkit import DevelopmentCA

NO_HANG = 20.0
"""Seconds that are more than any time-out, and less than a hang."""


@pytest.fixture(scope="module")
def host() -> Iterator[FarHost]:
    try:
        with far_host() as host:
            yield host
    except NotHere as why:
        pytest.skip(f"DID NOT RUN: a database on a host of its own: {why}")


@dataclass(frozen=True, slots=True)
class Place:
    """A configuration for sidecars here, on a database there."""

    config: Path
    host: FarHost
    provider: OidcProvider
    proxy: FaultProxy

    async def seed(self, *, age: float) -> str:
        """Alice's grant; its token version."""
        async with seeding(self.config) as seeder:
            answers = await log_in(self.provider, clients.BASIC, ["alice"])
            return (await seeder.add(answers, age=age))["alice"]


@pytest.fixture
def place(
    tmp_path: Path, host: FarHost, start_provider: StartProvider, fault_proxy: FaultProxy
) -> Iterator[Place]:
    """The server rotates refresh tokens, and ends a family at a replay. The way to the database is TLS."""
    provider = start_provider(registrations=[clients.BASIC], rotate=True)
    fault_proxy.forward_to(provider.port)
    config = make_config(tmp_path / "vault", provider, clients.BASIC)
    tune(config, f"brands.{BRAND}", **endpoints(provider, fault_proxy))
    tune(config, "renewal", redemption_deadline="50s", lease="90s")
    authority = DevelopmentCA.create("databases")
    (config.parent / "databases.pem").write_bytes(authority.certificate_pem)
    with PostgresServer(host=host) as server:
        server.use_tls(authority.issue(name="database", ips=(host.address,)))
        move_to(server, config)
        tune(config, "store", sslmode="verify-full", sslrootcert="databases.pem")
        yield Place(config, host, provider, fault_proxy)


async def test_cut_off_from_the_database_callers_are_told_and_an_answer_is_kept(place: Place) -> None:
    """But not from the authorization server, which answers meanwhile."""
    version = await place.seed(age=LIFE + 100)
    released = asyncio.Event()
    place.proxy.queue(held(released))
    async with running(place.config) as sidecar:
        reader = asyncio.create_task(sidecar.bot.get_token(BRAND, consumer="alice"))
        await place.proxy.until_acted(1)
        place.host.cut()
        try:
            released.set()
            await logged(sidecar.process, "renewal_unsaved")
            for _ in range(3):
                async with asyncio.timeout(NO_HANG):
                    with pytest.raises(StoreUnavailable) as told:
                        await sidecar.bot.get_token(BRAND, consumer="bob")
                assert told.value.retry_after
            await eventually(lambda: _is_ready(sidecar, False))
            assert not reader.done()
        finally:
            place.host.heal()
        token = await reader
        assert token.token_version != version
        await eventually(lambda: _is_ready(sidecar, True))
        assert (await sidecar.bot.get_token(BRAND, consumer="alice")).token_version == token.token_version
    (redemption,) = redemptions(place.provider)
    assert redemption.access_token == sha256(token.access_token)


async def test_cut_off_from_the_authorization_server_it_serves_what_a_peer_renews(place: Place) -> None:
    """But not from the database that they share."""
    await place.seed(age=LIFE + 100)
    tune(place.config, "renewal", redemption_deadline="2s", lease="5s")
    elsewhere = place.config.with_name("elsewhere.toml")
    elsewhere.write_text(place.config.read_text())
    tune(elsewhere, f"brands.{BRAND}", token_endpoint=place.provider.token_endpoint)
    never = asyncio.Event()
    place.proxy.set(Fault("cut", before=never, forward=False, answer=None))
    logs = place.config.parent
    async with (
        vault(place.config, logs=_made(logs / "here")) as cut_off,
        vault(elsewhere, logs=_made(logs / "there")) as peer,
        connect(cut_off) as bot,
        connect(peer) as other,
    ):
        with pytest.raises(AuthorizationServerUnavailable) as told:
            await bot.get_token(BRAND, consumer="alice")
        assert told.value.retry_after

        async def renewed() -> Token | None:
            with suppress(AuthorizationServerUnavailable):  # it was told to wait, too
                return await other.get_token(BRAND, consumer="alice")
            return None

        token = await eventually(renewed)
        assert token
        assert (await bot.get_token(BRAND, consumer="alice")).token_version == token.token_version
        never.set()
    (redemption,) = redemptions(place.provider)
    assert redemption.access_token == sha256(token.access_token)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


async def _is_ready(sidecar: Running, ready: bool) -> bool:
    return ((await get(sidecar.process, "/readyz")).status == 200) is ready
