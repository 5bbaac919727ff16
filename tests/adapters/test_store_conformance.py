"""The conformance suite against every store there is."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from tests.adapters.store_conformance import Stand, StoreConformance
from tests.fakes.memory_store import MemoryStore
from tokenvault_sidecar.adapters.sqlite import SqliteStore


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


MakeStand = Callable[[Path], AbstractAsyncContextManager[Stand]]


@pytest.fixture(params=[memory, sqlite], ids=lambda make: make.__name__)
async def stand(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stand]:
    make: MakeStand = request.param
    async with make(tmp_path) as made:
        yield made


class TestStore(StoreConformance):
    pass
