"""The conformance suite against every store there is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.adapters.store_concurrency import ConcurrencyConformance
from tests.adapters.store_conformance import Stand, StoreConformance
from tests.fakes.memory_store import MemoryStore
from tests.postgres.server import PostgresServer
from tokenvault_sidecar.adapters.postgres import PostgresStore
from tokenvault_sidecar.adapters.postgres_connecting import PostgresSettings
from tokenvault_sidecar.adapters.postgres_connections import Connections
from tokenvault_sidecar.adapters.sqlite import SqliteStore

_EMPTY = """
    TRUNCATE grants, delegations, outcomes, revocations, keys;
    DROP TABLE IF EXISTS lease_clock;
    CREATE TABLE lease_clock AS SELECT 1000.0::float8 AS seconds;
    GRANT SELECT ON lease_clock TO tokenvault;
"""


class LeaseClock:
    """A clock that stands still until told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@asynccontextmanager
async def memory(_folder: Path) -> AsyncIterator[Stand]:
    clock = LeaseClock()
    store = MemoryStore(lease_clock=clock)
    yield Stand(store, store, clock.advance)


@asynccontextmanager
async def sqlite(folder: Path) -> AsyncIterator[Stand]:
    clock = LeaseClock()
    store, peer = (SqliteStore.open(folder / "vault.db", lease_clock=clock) for _ in range(2))
    try:
        yield Stand(store, peer, clock.advance)
    finally:
        await store.close()
        await peer.close()


@asynccontextmanager
async def postgres(server: PostgresServer, settings: PostgresSettings) -> AsyncIterator[Stand]:
    """What is there is deleted."""
    database = settings.database
    await (await PostgresStore.open(settings)).close()
    server.sql(_EMPTY, database)
    clock = "(SELECT seconds FROM lease_clock)"
    store, peer = (PostgresStore(Connections(settings), lease_clock=clock) for _ in range(2))

    def pass_time(seconds: float) -> None:
        server.sql("UPDATE lease_clock SET seconds = seconds + %s", database, seconds)

    try:
        yield Stand(store, peer, pass_time)
    finally:
        await store.close()
        await peer.close()


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> str:
    return postgres_server.create_database()


@pytest.fixture(params=["memory", "sqlite", "postgres", "pgbouncer"])
async def stand(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stand]:
    if request.param in ("memory", "sqlite"):
        made = {"memory": memory, "sqlite": sqlite}[request.param](tmp_path)
    else:
        server, database = map(request.getfixturevalue, ("postgres_server", "database"))
        way = request.getfixturevalue("postgres_pooler") if request.param == "pgbouncer" else server
        made = postgres(server, way.settings(database))
    async with made as stand:
        yield stand


class TestStore(StoreConformance, ConcurrencyConformance):
    pass
