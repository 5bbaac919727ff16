"""Several processes at work on one store at once."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from tests.adapters.processes import run_helpers
from tests.adapters.store_conformance import delegation_row, grant_row, row_key
from tests.postgres.collisions import SERIALIZATION_FAILURE, failures, isolate, slow_down
from tests.postgres.server import PostgresServer
from tokenvault_sidecar.adapters.postgres import PostgresStore
from tokenvault_sidecar.adapters.sqlite import SqliteStore
from tokenvault_sidecar.adapters.stores import ServedStore
from tokenvault_sidecar.core.ports import Attempt

PROCESSES = 4


@dataclass(frozen=True, slots=True)
class Shared:
    """An empty store, open here, and how other processes name it."""

    store: ServedStore
    name: str


@asynccontextmanager
async def sqlite(request: pytest.FixtureRequest) -> AsyncIterator[Shared]:
    path: Path = request.getfixturevalue("tmp_path") / "vault.db"
    store = SqliteStore.open(path)
    yield Shared(store, str(path))
    await store.close()


@asynccontextmanager
async def postgres(request: pytest.FixtureRequest) -> AsyncIterator[Shared]:
    server: PostgresServer = request.getfixturevalue("postgres_server")
    settings = server.settings(request.getfixturevalue("postgres_database"))
    store = await PostgresStore.open(settings)
    yield Shared(store, json.dumps(asdict(settings), default=str))
    await store.close()


@asynccontextmanager
async def serializable(request: pytest.FixtureRequest) -> AsyncIterator[Shared]:
    """What collides there fails, as in distributed databases: some must have."""
    server: PostgresServer = request.getfixturevalue("postgres_server")
    database: str = request.getfixturevalue("postgres_database")
    isolate(server, database, "serializable")
    async with postgres(request) as shared:
        slow_down(server, database, seconds=0.002)
        yield shared
    assert failures(server, database, SERIALIZATION_FAILURE)


Make = Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Shared]]


@pytest.fixture(params=[sqlite, postgres, serializable], ids=lambda make: make.__name__)
async def shared(request: pytest.FixtureRequest) -> AsyncIterator[Shared]:
    make: Make = request.param
    async with make(request) as shared:
        yield shared


async def test_no_update_is_lost(shared: Shared) -> None:
    await shared.store.put_grant(grant_row(sealed=b"0"), replaces=None)
    await run_helpers("counting", shared.name, count=PROCESSES)
    row = await shared.store.get_grant(row_key(1))
    assert row is not None
    assert row.sealed == b"%d" % (200 * PROCESSES)


async def test_a_lease_has_one_holder(shared: Shared, tmp_path: Path) -> None:
    await shared.store.put_grant(grant_row(), replaces=None)
    await run_helpers("leasing", shared.name, tmp_path, count=PROCESSES)
    assert await shared.store.get_grant(row_key(1)) == grant_row(attempt=Attempt(failures=39))


async def test_a_delegation_is_taken_once(shared: Shared) -> None:
    await asyncio.gather(*(shared.store.put_delegation(delegation_row(n)) for n in range(100)))
    took = await run_helpers("taking", shared.name, count=PROCESSES)
    assert sorted(line for lines in took for line in lines) == sorted(f"took {n}" for n in range(100))
