"""By way of a pooler that shares its connections out by transaction: all is as without one.

So is the store's conformance suite (tests/adapters/test_store_conformance.py), and
one redemption by four sidecars (tests/renewal/test_concurrency.py).
"""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from tests.adapters.store_conformance import grant_row, row_key
from tests.authserver import clients
from tests.authserver.oidc import OidcProvider
from tests.e2e.commands import tokenvault
from tests.e2e.people import call_api, delegate
from tests.e2e.vaults import brand, connect, eventually, make_vault, running
from tests.postgres.pooler import CONNECTIONS, Pooler
from tests.postgres.server import PostgresServer, move_to
from tokenvault_sidecar.adapters.postgres import PostgresStore
from tokenvault_sidecar.adapters.stores import StoreOpenError
from tokenvault_sidecar.core.errors import StoreUnavailable


async def test_a_consumer_delegates_and_is_renewed(
    tmp_path: Path, oidc_provider: OidcProvider, postgres_server: PostgresServer, postgres_pooler: Pooler
) -> None:
    folder = tmp_path / "vault"
    config = make_vault(folder, {"acme": brand(folder, oidc_provider.issuer, clients.BASIC)})
    move_to(postgres_server, config, postgres_pooler)
    async with running(config) as one, running(config) as other, connect(one) as bot, connect(other) as peer:
        await delegate(bot, "acme", consumer="alice")
        first = await peer.get_token("acme", consumer="alice")
        renewed = await peer.get_token("acme", consumer="alice", rejected_token_version=first.token_version)
        assert renewed.token_version != first.token_version
        assert await bot.get_token("acme", consumer="alice") == renewed
        assert await call_api(oidc_provider, renewed) == 200
        status, out, said = await tokenvault("stats", "--config", config)
        assert (status, said) == (0, "")
        assert f":{postgres_pooler.port}/" in out
        status, out, said = await tokenvault("keys", "list", "--config", config)
        assert (status, said) == (0, "")


async def test_many_share_few_connections(
    postgres_server: PostgresServer, postgres_pooler: Pooler, postgres_database: str
) -> None:
    settings = postgres_pooler.settings(postgres_database)
    stores = await asyncio.gather(*(PostgresStore.open(settings) for _ in range(10)))
    for number, store in enumerate(stores):
        assert await store.put_grant(grant_row(number), replaces=None)
    found = await asyncio.gather(
        *(store.get_grant(row_key(number)) for number in range(10) for store in stores)
    )
    assert found == [grant_row(number) for number in range(10) for _ in stores]
    ((connections,),) = postgres_server.sql(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = %s", "postgres", postgres_database
    )
    assert 0 < connections <= CONNECTIONS
    for store in stores:
        await store.close()


async def test_the_roles_time_outs_hold_where_a_sessions_do_not(
    postgres_server: PostgresServer, postgres_pooler: Pooler, postgres_database: str
) -> None:
    """As docs/operations.md has them set."""
    for name, value in (("statement_timeout", "3s"), ("idle_in_transaction_session_timeout", "5s")):
        postgres_server.sql(f"ALTER ROLE tokenvault IN DATABASE {postgres_database} SET {name} = '{value}'")
    store = await PostgresStore.open(postgres_pooler.settings(postgres_database))
    with psycopg.connect(
        host=str(postgres_server.data), port=postgres_server.port, user="postgres", dbname=postgres_database
    ) as other:
        other.execute("LOCK TABLE grants")
        told = await asyncio.gather(
            *(store.get_grant(row_key(1)) for _ in range(CONNECTIONS)), return_exceptions=True
        )
    for error in told:
        assert isinstance(error, StoreUnavailable)
        assert "a statement takes too long" in error.message
    assert await store.get_grant(row_key(1)) is None
    await store.close()


async def test_what_is_not_durable_is_seen_through_it(
    postgres_server: PostgresServer, postgres_pooler: Pooler, postgres_database: str
) -> None:
    postgres_server.sql(f"ALTER DATABASE {postgres_database} SET synchronous_commit = off")
    with pytest.raises(StoreOpenError, match="synchronous_commit = off, and would lose tokens"):
        await PostgresStore.open(postgres_pooler.settings(postgres_database))


@pytest.fixture
def own() -> Iterator[tuple[PostgresServer, Pooler]]:
    """A server that may be ended, and its pooler, which tries it anew each second."""
    with ExitStack() as stack:
        server = stack.enter_context(PostgresServer(durable=True))
        yield server, stack.enter_context(Pooler(server, settings={"server_login_retry": "1"}))


async def test_the_database_behind_it_goes_away_and_comes_back(own: tuple[PostgresServer, Pooler]) -> None:
    """The pooler takes connections still: what it says, or does not say in time, is UNAVAILABLE."""
    server, pooler = own
    store = await PostgresStore.open(pooler.settings(server.create_database()))
    row = grant_row()
    assert await store.put_grant(row, replaces=None)
    await asyncio.to_thread(server.stop, "immediate")
    async with asyncio.timeout(20):
        with pytest.raises(StoreUnavailable):
            await store.get_grant(row.key)
    await asyncio.to_thread(server.start)

    async def is_back() -> bool:
        with suppress(StoreUnavailable):
            return await store.get_grant(row.key) == row
        return False

    await eventually(is_back)
    newer = replace(row, version="v2")
    assert await store.put_grant(newer, replaces="v1")
    assert await store.get_grant(row.key) == newer
    await store.close()
