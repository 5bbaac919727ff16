"""What collides with another in the database is tried again, and nobody is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from tests.adapters.store_concurrency import ConcurrencyConformance
from tests.adapters.store_conformance import Stand, delegation_row, grant_row, revocation_row, row_key
from tests.adapters.test_postgres import holding
from tests.adapters.test_store_conformance import postgres
from tests.e2e.vaults import eventually
from tests.postgres.collisions import DEADLOCK, SERIALIZATION_FAILURE, failures, isolate, slow_down
from tests.postgres.server import PostgresServer
from tokenvault_sidecar.adapters.postgres import PostgresStore
from tokenvault_sidecar.core.errors import StoreUnavailable


class TestSerializable(ConcurrencyConformance):
    """Each transaction is as if it were alone, or fails: what the distributed databases do by default."""

    @pytest.fixture
    async def stand(self, postgres_server: PostgresServer, postgres_database: str) -> AsyncIterator[Stand]:
        settings = postgres_server.settings(postgres_database)
        isolate(postgres_server, postgres_database, "serializable")
        async with postgres(postgres_server, settings) as stand:
            for door in (stand.store, stand.peer):  # connecting takes its time
                await asyncio.gather(*(door.get_grant(row_key(1)) for _ in range(settings.connections)))
            slow_down(postgres_server, postgres_database, seconds=0.2)
            yield stand
        assert failures(postgres_server, postgres_database, SERIALIZATION_FAILURE)


async def test_a_deadlock(postgres_server: PostgresServer, postgres_database: str) -> None:
    """Another changes the same rows in the other order."""
    settings = postgres_server.settings(postgres_database)
    # Who waits first looks for one, once: after this, and before the statement has taken too long.
    postgres_server.sql(f"ALTER DATABASE {postgres_database} SET deadlock_timeout = '2s'")
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"

    async def one_waits() -> bool:
        return postgres_server.sql(waiting, "postgres", postgres_database) == [(1,)]

    grant, pending, revocation = grant_row(), delegation_row(), revocation_row()
    store = await PostgresStore.open(settings)
    await store.put_grant(grant, replaces=None)
    await store.put_delegation(pending)
    forgotten = None
    while forgotten is None:
        with (
            suppress(StoreUnavailable),  # a slow machine: the other came too late to be seen
            holding(postgres_server, settings, "UPDATE grants SET purge_at = purge_at") as other,
        ):
            forget = asyncio.create_task(
                store.forget_context(grant.key, version=grant.version, revocations=[revocation])
            )
            await eventually(one_waits)
            await asyncio.to_thread(other.execute, "UPDATE delegations SET expires_at = expires_at")
            other.commit()
            forgotten = await forget
    assert forgotten
    assert failures(postgres_server, postgres_database, DEADLOCK)
    assert await store.get_grant(grant.key) is None
    assert await store.get_delegation(pending.key) is None
    assert await store.due_revocations(revocation.due_at, limit=9) == [revocation]
    await store.close()
