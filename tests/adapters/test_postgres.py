"""What only a store in a database can show: opening, connections that break, a database that is away."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import psycopg
import pytest

from tests.adapters.processes import run_helpers
from tests.adapters.store_conformance import (
    NOW,
    delegation_row,
    grant_row,
    lease,
    outcome_row,
    revocation_row,
    row_key,
    wrapped_key,
)
from tests.e2e.vaults import eventually
from tests.postgres.collisions import isolate
from tests.postgres.proxy import LossyProxy
from tests.postgres.server import PASSWORD, PostgresServer
from tokenvault_sidecar.adapters import postgres_schema
from tokenvault_sidecar.adapters.postgres import PostgresStore
from tokenvault_sidecar.adapters.postgres_connecting import ANSWER, PostgresSettings
from tokenvault_sidecar.adapters.postgres_connections import Connections
from tokenvault_sidecar.adapters.postgres_schema import MIGRATIONS
from tokenvault_sidecar.adapters.stores import StoreOpenError
from tokenvault_sidecar.config.store import parse_url
from tokenvault_sidecar.core.errors import StoreUnavailable
from tokenvault_sidecar.core.ports import Completion
from tokenvault_sidecar.devkit import DevelopmentCA

T = TypeVar("T")
Holder = psycopg.Connection[tuple[Any, ...]]

ISOLATION = ("read committed", "repeatable read", "serializable")

AT_ONCE = 20.0
"""Seconds that are more than any time-out, and less than a hang."""


@pytest.fixture
def settings(postgres_server: PostgresServer, postgres_database: str) -> PostgresSettings:
    return postgres_server.settings(postgres_database)


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """One that may be ended, and syncs."""
    with PostgresServer(durable=True) as server:
        yield server


@asynccontextmanager
async def opened(settings: PostgresSettings) -> AsyncIterator[PostgresStore]:
    store = await PostgresStore.open(settings)
    try:
        yield store
    finally:
        await store.close()


class TestOpening:
    async def test_what_was_written_is_there_after_reopening(self, settings: PostgresSettings) -> None:
        async with opened(settings) as store:
            await store.put_grant(grant_row(), replaces=None)
        async with opened(settings) as store:
            assert await store.get_grant(grant_row().key) == grant_row()

    async def test_ten_processes_make_one_store(self, settings: PostgresSettings) -> None:
        await run_helpers("opening", json.dumps(asdict(settings), default=str), count=10)
        async with opened(settings) as store:
            assert await store.schema_version() == len(MIGRATIONS)
            assert await store.put_grant(grant_row(), replaces=None)

    @pytest.mark.parametrize("isolation", ISOLATION)
    async def test_thirty_migrate_at_once(
        self, settings: PostgresSettings, postgres_server: PostgresServer, isolation: str
    ) -> None:
        isolate(postgres_server, settings.database, isolation)
        stores = await asyncio.gather(*(PostgresStore.open(settings) for _ in range(30)))
        assert await stores[0].schema_version() == len(MIGRATIONS)
        for store in stores:
            await store.close()

    @pytest.mark.parametrize("isolation", ISOLATION)
    async def test_two_make_one_set_of_keys(
        self, settings: PostgresSettings, postgres_server: PostgresServer, isolation: str
    ) -> None:
        """Both wait for their turn; whatever the default is, the second sees what the first did."""
        isolate(postgres_server, settings.database, isolation)
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"

        async def both_wait() -> bool:
            return postgres_server.sql(waiting, "postgres", settings.database) == [(2,)]

        async with opened(settings) as one, opened(settings) as other:
            with holding(postgres_server, settings, "SELECT 1 FROM tokenvault_schema FOR UPDATE"):
                first = asyncio.create_task(comes(lambda: one.add_keys([wrapped_key("a")], first=True)))
                second = asyncio.create_task(comes(lambda: other.add_keys([wrapped_key("b")], first=True)))
                await eventually(both_wait)
            assert sorted(await asyncio.gather(first, second)) == [False, True]
            assert len(await one.get_keys()) == 1

    async def test_a_command_makes_none(self, settings: PostgresSettings) -> None:
        with pytest.raises(StoreOpenError, match="holds no store yet: the first start of a sidecar"):
            await PostgresStore.open(settings, make=False)
        async with opened(settings):
            pass
        await (await PostgresStore.open(settings, make=False)).close()

    async def test_a_newer_schema(self, settings: PostgresSettings, postgres_server: PostgresServer) -> None:
        async with opened(settings):
            pass
        postgres_server.sql("UPDATE tokenvault_schema SET version = version + 1", settings.database)
        with pytest.raises(StoreOpenError, match=rf"has schema version {len(MIGRATIONS) + 1}.*newer token"):
            await PostgresStore.open(settings)

    async def test_while_a_newer_version_migrates_the_older_one_serves(
        self, settings: PostgresSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A rolling upgrade: ten of the newer version start at once beside an older one at work."""
        async with opened(settings) as older:
            await older.put_grant(GRANT, replaces=None)
            counting = asyncio.create_task(_count_up(older))
            monkeypatch.setattr(postgres_schema, "MIGRATIONS", (*MIGRATIONS, _LATER, "SELECT 1"))
            newer = await asyncio.gather(*(PostgresStore.open(settings) for _ in range(10)))
            assert await newer[0].schema_version() == len(MIGRATIONS) + 2
            await counting
            row = await older.get_grant(GRANT.key)
            assert row is not None
            assert row.sealed == b"100"
            assert await newer[0].get_grant(GRANT.key) == row
            assert await lease(older, row)
            assert not await lease(newer[1], row, unanswered=1)
            for store in newer:
                await store.close()
            monkeypatch.undo()
            with pytest.raises(StoreOpenError, match="run a newer token vault"):
                await PostgresStore.open(settings)

    async def test_a_migration_that_fails_changes_nothing(
        self, settings: PostgresSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with opened(settings):
            pass
        fails = (*MIGRATIONS, _LATER + "; SELECT 1 / 0")
        monkeypatch.setattr(postgres_schema, "MIGRATIONS", fails)
        with pytest.raises(StoreOpenError, match="refuses a statement"):
            await PostgresStore.open(settings)
        monkeypatch.setattr(postgres_schema, "MIGRATIONS", (*MIGRATIONS, _LATER))
        async with opened(settings) as store:
            assert await store.schema_version() == len(MIGRATIONS) + 1

    async def test_another_programs_tables(
        self, settings: PostgresSettings, postgres_server: PostgresServer
    ) -> None:
        postgres_server.sql("CREATE TABLE grants (id integer)", settings.database)
        with pytest.raises(StoreOpenError, match="another program's tables: name a database"):
            await PostgresStore.open(settings)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"ports": (1,)}, "cannot be reached: check that it runs"),
            ({"database": "none"}, "no such role or database: check store.url"),
            ({"user": "nobody"}, "refuses the password: check store.password_file"),
            ({"password_file": None}, "wants a password: set store.password_file"),
            ({"password_file": Path("/no/such")}, "password cannot be read: look at store.password_file"),
            ({"sslmode": "verify-full", "sslrootcert": "system"}, "speaks no TLS as store.sslmode asks for"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    async def test_what_cannot_be_opened(
        self, settings: PostgresSettings, changes: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(StoreOpenError, match=said) as caught:
            await PostgresStore.open(replace(settings, **changes))
        assert PASSWORD not in str(caught.value)

    async def test_of_several_hosts_the_one_that_answers(self, settings: PostgresSettings) -> None:
        several = replace(settings, hosts=("127.0.0.1", "127.0.0.1"), ports=(1, *settings.ports))
        async with opened(several) as store:
            assert await store.put_grant(grant_row(), replaces=None)

    async def test_by_a_unix_socket(
        self, settings: PostgresSettings, postgres_server: PostgresServer
    ) -> None:
        here = replace(
            settings, hosts=(str(postgres_server.data),), sslmode="verify-full", sslrootcert="system"
        )
        async with opened(here) as store:
            assert await store.put_grant(grant_row(), replaces=None)

    @pytest.mark.parametrize("name", ["host=h.example", "postgresql://u@h.example/d", "a, 'b' \\", "ä%2C"])
    async def test_a_name_that_libpq_might_take_for_settings(
        self, settings: PostgresSettings, postgres_server: PostgresServer, name: str
    ) -> None:
        """A role's and a database's, as a URL may encode it."""
        url = parse_url(f"postgresql://{quote(name, safe='')}@127.0.0.1/{quote(name, safe='')}")
        role = postgres_server.sql("SELECT quote_ident(%s)", "postgres", name)[0][0]
        postgres_server.sql(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
        postgres_server.sql(f"CREATE DATABASE {role} OWNER {role}")
        async with opened(replace(settings, user=url.user, database=url.database)) as store:
            assert await store.put_grant(grant_row(), replaces=None)

    async def test_a_password_is_read_anew_for_each_connection(
        self, settings: PostgresSettings, postgres_server: PostgresServer, tmp_path: Path
    ) -> None:
        role, file = f"role_of_{settings.database}", tmp_path / "password"
        postgres_server.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'first' IN ROLE tokenvault")
        file.write_text("first\n")
        async with opened(replace(settings, user=role, password_file=file)) as store:
            assert await store.get_grant(row_key(1)) is None
            postgres_server.sql(f"ALTER ROLE {role} PASSWORD 'second'")
            assert await store.get_grant(row_key(1)) is None, "connections live on"
            postgres_server.disconnect(settings.database)
            with pytest.raises(StoreUnavailable, match="refuses the password"):
                await store.get_grant(row_key(1))
            file.write_text("second\n")
            assert await comes(lambda: store.get_grant(row_key(1))) is None


async def comes(ask: Callable[[], Awaitable[T]]) -> T:
    """What it gives once the store can be used again."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await ask()
            except StoreUnavailable:
                await asyncio.sleep(0.05)


GRANT, PENDING = grant_row(), delegation_row()
NEW_KEYS = [wrapped_key("a"), wrapped_key("b")]


_LATER = "ALTER TABLE grants ADD COLUMN later text NOT NULL DEFAULT 'x'"


async def _count_up(store: PostgresStore) -> None:
    """Write a grant's row a hundred times, by compare-and-swap."""
    for number in range(1, 101):
        before = await store.get_grant(GRANT.key)
        assert before is not None
        row = replace(before, version=f"v{number}", sealed=b"%d" % number)
        assert await store.put_grant(row, replaces=before.version)


async def put_taken(store: PostgresStore) -> None:
    await store.put_delegation(PENDING, outcome_row())
    assert await store.take_delegation(PENDING.key)


Change = Callable[[PostgresStore], Awaitable[Any]]
LOST: dict[str, tuple[list[Change], bytes, Change]] = {
    "a grant is made": ([], b"INSERT INTO grants", lambda s: s.put_grant(GRANT, replaces=None)),
    "a grant is replaced": (
        [lambda s: s.put_grant(GRANT, replaces=None)],
        b"UPDATE grants",
        lambda s: s.put_grant(grant_row(version="v2"), replaces="v1"),
    ),
    "the owner of a lease replaces it": (
        [lambda s: s.put_grant(GRANT, replaces=None), lambda s: lease(s, GRANT)],
        b"UPDATE grants",
        lambda s: s.put_grant(grant_row(version="v2"), replaces="v1", owner="me"),
    ),
    "a grant completes a delegation": (
        [put_taken],
        b"COMMIT",
        lambda s: s.put_grant(GRANT, replaces=None, completes=Completion(PENDING.key, outcome_row())),
    ),
    "a taken delegation is changed": (
        [put_taken],
        b"COMMIT",
        lambda s: s.change_taken(
            replace(PENDING, sealed=b"held"), was=PENDING.sealed, revocations=[revocation_row()]
        ),
    ),
    "a taken delegation is ended": (
        [put_taken],
        b"COMMIT",
        lambda s: s.end_taken(PENDING, outcome=outcome_row(sealed=b"ended")),
    ),
    "a grant is touched": (
        [lambda s: s.put_grant(GRANT, replaces=None)],
        b"UPDATE grants",
        lambda s: s.touch_grant(replace(GRANT, sealed=b"newer"), was=GRANT.sealed),
    ),
    "a lease is taken": (
        [lambda s: s.put_grant(GRANT, replaces=None)],
        b"UPDATE grants",
        lambda s: lease(s, GRANT),
    ),
    "a context is forgotten": (
        [lambda s: s.put_grant(GRANT, replaces=None)],
        b"COMMIT",
        lambda s: s.forget_context(GRANT.key, version="v1", revocations=[revocation_row()]),
    ),
    "a delegation is put": ([], b"COMMIT", lambda s: _true(s.put_delegation(PENDING, outcome_row()))),
    "a delegation is taken": (
        [lambda s: s.put_delegation(PENDING)],
        b"UPDATE delegations",
        lambda s: _some(s.take_delegation(PENDING.key)),
    ),
    "a revocation is queued": ([], b"COMMIT", lambda s: _true(s.add_revocations([revocation_row()]))),
    "the first keys are added": ([], b"COMMIT", lambda s: s.add_keys(NEW_KEYS, first=True)),
    "a data key is added": (
        [lambda s: s.add_keys(NEW_KEYS, first=True)],
        b"COMMIT",
        lambda s: s.add_data_key(wrapped_key("c", NOW + 1.0), after="b"),
    ),
    "a grant is read": ([], b"FROM grants", lambda s: _none(s.get_grant(GRANT.key))),
}


async def _true(write: Awaitable[None]) -> bool:
    await write
    return True


async def _some(write: Awaitable[object]) -> bool:
    return await write is not None


async def _none(read: Awaitable[object]) -> bool:
    return await read is None


class TestTls:
    async def test_it_must_be_the_host_and_of_the_authority(
        self, own_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not own_server.speaks_tls:
            pytest.skip("this build of PostgreSQL speaks no TLS")
        ours, another = DevelopmentCA.create("ours"), DevelopmentCA.create("another's")
        own_server.use_tls(ours.issue(name="db", dns=["localhost"], ips=["127.0.0.1"]))
        for name, ca in (("ours", ours), ("another", another)):
            (tmp_path / name).write_bytes(ca.certificate_pem)
        plain = own_server.settings(own_server.create_database())
        full = replace(plain, sslmode="verify-full", sslrootcert=str(tmp_path / "ours"))
        async with opened(full) as store:
            await store.put_grant(GRANT, replaces=None)
            ((encrypted,),) = own_server.sql(
                "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE datname = %s",
                "postgres",
                full.database,
            )
            assert encrypted
        with pytest.raises(StoreOpenError, match=r"no certificate that store\.sslrootcert vouches for"):
            await PostgresStore.open(replace(full, sslrootcert=str(tmp_path / "another")))
        with pytest.raises(StoreOpenError, match=r"no certificate that store\.sslrootcert vouches for"):
            await PostgresStore.open(replace(full, sslrootcert="system"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ours"))
        async with opened(replace(full, sslrootcert="system")) as store:
            assert await store.get_grant(GRANT.key) == GRANT
        own_server.use_tls(ours.issue(name="db", dns=["elsewhere.example"]))
        with pytest.raises(StoreOpenError, match=r"is not for the host that store\.url names"):
            await PostgresStore.open(full)
        async with opened(replace(full, sslmode="verify-ca")) as store:
            assert await store.get_grant(GRANT.key) == GRANT


class TestConnectionsThatBreak:
    async def test_none_is_forgotten_or_sends_late(self, settings: PostgresSettings) -> None:
        connections = Connections(settings)
        async with connections.use(ANSWER) as connection:
            with socket.socket(fileno=os.dup(connection.fileno())) as end:
                assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 60
                assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == ANSWER * 1000
        await connections.close()

    @pytest.mark.parametrize("name", LOST)
    async def test_an_answer_that_is_lost_is_asked_for_again(
        self, settings: PostgresSettings, name: str
    ) -> None:
        """The server has done it, and the connection broke before it could say so: that is told apart."""
        before, lost, change = LOST[name]
        async with (
            LossyProxy(settings.ports[0]) as proxy,
            opened(replace(settings, ports=(proxy.port,))) as store,
        ):
            for prepare in before:
                assert await prepare(store) is not False
            proxy.lose(lost)
            assert await change(store) is True
            assert proxy.lost == 1

    @pytest.mark.parametrize("name", LOST)
    async def test_what_comes_late_is_not_taken_for_anothers(
        self, settings: PostgresSettings, name: str
    ) -> None:
        """The connection broke, and it was on its way still: it is done just before it is repeated."""
        before, lost, change = LOST[name]
        async with (
            LossyProxy(settings.ports[0]) as proxy,
            opened(replace(settings, ports=(proxy.port,))) as store,
        ):
            for prepare in before:
                assert await prepare(store) is not False
            proxy.delay(lost, until=b"BEGIN" if lost == b"COMMIT" else lost)
            assert await change(store) is True
            assert proxy.lost == 1

    @pytest.mark.parametrize("name", ["a lease is taken", "a delegation is taken"])
    async def test_what_stays_in_doubt_is_undone(self, own_server: PostgresServer, name: str) -> None:
        """The answer is lost, and the database is away before it can be asked: nobody holds it then."""
        before, lost, change = LOST[name]
        settings = own_server.settings(own_server.create_database())
        async with (
            LossyProxy(own_server.port) as proxy,
            opened(replace(settings, ports=(proxy.port,))) as store,
        ):
            for prepare in before:
                await prepare(store)
            proxy.lose(lost, then=lambda: own_server.stop("immediate"))
            try:
                with pytest.raises(StoreUnavailable):
                    await change(store)
                assert proxy.lost == 1
            finally:
                own_server.start()

            async def undone() -> bool:
                if name == "a lease is taken":
                    return await comes(lambda: store.get_grant(GRANT.key)) == GRANT
                return await comes(lambda: store.get_delegation(PENDING.key)) == PENDING

            await eventually(undone)
            assert await change(store)

    @pytest.mark.parametrize("name", ["a lease is taken", "a delegation is taken"])
    async def test_so_is_what_the_database_does_not_tell(
        self, settings: PostgresSettings, postgres_server: PostgresServer, name: str
    ) -> None:
        """The answer is lost; asked whether it has happened the database refuses, as behind a tool's lock."""
        before, lost, change = LOST[name]
        table = "grants" if name == "a lease is taken" else "delegations"
        async with (
            LossyProxy(settings.ports[0]) as proxy,
            opened(replace(settings, ports=(proxy.port,))) as store,
        ):
            for prepare in before:
                await prepare(store)
            with ExitStack() as locks:
                lock = holding(postgres_server, settings, f"LOCK TABLE {table}")
                proxy.lose(lost, then=lambda: locks.enter_context(lock))
                with pytest.raises(StoreUnavailable, match=r"57014|did not answer"):
                    await change(store)

            async def again() -> bool:
                return await comes(lambda: change(store)) is True

            await eventually(again)

    async def test_cut_again_and_again_no_update_is_lost(
        self, settings: PostgresSettings, postgres_server: PostgresServer
    ) -> None:
        """Four count up by compare-and-swap while every connection is ended every few milliseconds."""
        counted, rounds = 0, 25

        async def count(store: PostgresStore, name: str) -> None:
            nonlocal counted
            for step in range(rounds):
                while True:
                    row = await comes(lambda: store.get_grant(row_key(1)))
                    assert row is not None
                    sealed = b"%d %s" % (_number(row.sealed) + 1, name.encode())
                    newer = replace(row, version=f"{name}-{step}", sealed=sealed)
                    if await comes(lambda: store.put_grant(newer, replaces=row.version)):  # noqa: B023 awaited
                        counted += 1
                        break

        async with opened(settings) as one, opened(settings) as other:
            await one.put_grant(grant_row(sealed=b"0"), replaces=None)
            stores = (one, other) * 2
            work = asyncio.gather(*(count(store, f"w{n}") for n, store in enumerate(stores)))
            ended = 0
            while not work.done():
                ended += await asyncio.to_thread(postgres_server.disconnect, settings.database)
                await asyncio.sleep(0.01)
            await work
            row = await one.get_grant(row_key(1))
        assert row is not None
        assert ended > 0
        assert _number(row.sealed) == counted == rounds * len(stores)

    @pytest.mark.parametrize("mode", ["fast", "immediate"])
    async def test_a_restart_loses_nothing_that_was_acknowledged(
        self, own_server: PostgresServer, mode: str
    ) -> None:
        acknowledged: list[bytes] = []
        ending = asyncio.Event()

        async def write(store: PostgresStore, worker: int) -> None:
            for number in range(100_000):
                if ending.is_set():
                    return
                row = grant_row(worker * 1_000_000 + number)
                if await comes(lambda: store.put_grant(row, replaces=None)):  # noqa: B023 awaited
                    acknowledged.append(row.key)

        async with opened(own_server.settings(own_server.create_database())) as store:
            work = asyncio.gather(*(write(store, worker) for worker in range(4)))
            for wanted in (50, 100):
                async with asyncio.timeout(60):
                    while len(acknowledged) < wanted:  # noqa: ASYNC110 a list
                        await asyncio.sleep(0.01)
                await asyncio.to_thread(own_server.stop, mode)
                await asyncio.to_thread(own_server.start)
            ending.set()
            await work
            for key in acknowledged:
                assert await store.get_grant(key) is not None

    async def test_what_is_stuck_is_given_up(
        self, settings: PostgresSettings, postgres_server: PostgresServer
    ) -> None:
        """Somebody holds a row: who wants to change it is told within seconds, others go on."""
        async with opened(settings) as store:
            await store.put_grant(GRANT, replaces=None)
            with holding(postgres_server, settings, "SELECT 1 FROM grants FOR UPDATE"):
                async with asyncio.timeout(AT_ONCE):
                    with pytest.raises(
                        StoreUnavailable, match=r"takes too long: look at its load and for locks \(57014\)"
                    ) as caught:
                        await store.put_grant(grant_row(version="v2"), replaces="v1")
                    assert caught.value.retry_after
                    assert await store.get_grant(GRANT.key) == GRANT
                    assert await store.put_grant(grant_row(2), replaces=None)
            await comes(lambda: store.put_grant(grant_row(3), replaces=None))

    async def test_a_transaction_whose_client_is_stuck_lets_go(
        self, settings: PostgresSettings, postgres_server: PostgresServer
    ) -> None:
        async with opened(settings) as store, Connections(settings).use(60.0) as connection:
            await store.put_grant(GRANT, replaces=None)
            with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):  # noqa: PT012 it ends at the last
                async with connection.transaction():
                    await connection.execute("SELECT 1 FROM grants FOR UPDATE")
                    assert await comes(lambda: store.put_grant(grant_row(version="v2"), replaces="v1"))
                    await connection.execute("SELECT 1")


async def test_after_a_fail_over_all_is_there_that_was_acknowledged() -> None:
    """The primary crashes for good, its synchronous standby is promoted: the URL names both."""
    acknowledged: list[bytes] = []
    ending = asyncio.Event()

    async def write(store: PostgresStore, worker: int) -> None:
        number = worker * 1_000_000
        while not ending.is_set():
            number += 1
            row = grant_row(number)
            if await comes(lambda: store.put_grant(row, replaces=None)):  # noqa: B023 awaited
                acknowledged.append(row.key)

    async def until(count: int) -> None:
        async with asyncio.timeout(120):
            while len(acknowledged) < count:  # noqa: ASYNC110 a list
                await asyncio.sleep(0.02)

    with PostgresServer(durable=True) as primary, PostgresServer(durable=True, standby_of=primary) as standby:
        primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.sql("SELECT pg_reload_conf()")
        both = replace(
            primary.settings(primary.create_database()),
            hosts=("127.0.0.1", "127.0.0.1"),
            ports=(standby.port, primary.port),
        )
        async with opened(both) as store:
            work = asyncio.gather(*(write(store, worker) for worker in range(4)))
            await until(100)
            await asyncio.to_thread(primary.stop, "immediate")
            await asyncio.to_thread(standby.promote)
            await until(len(acknowledged) + 100)
            ending.set()
            await work
            for key in acknowledged:
                assert await store.get_grant(key) is not None


class TestAway:
    async def test_callers_are_told_at_once_and_it_comes_back(self, own_server: PostgresServer) -> None:
        async with opened(own_server.settings(own_server.create_database())) as store:
            await store.put_grant(GRANT, replaces=None)
            own_server.stop()
            try:
                async with asyncio.timeout(AT_ONCE):
                    for _ in range(3):
                        told = await asyncio.gather(
                            *(store.get_grant(GRANT.key) for _ in range(200)),
                            store.put_grant(grant_row(2), replaces=None),
                            store.probe(),
                            return_exceptions=True,
                        )
                        assert all(isinstance(e, StoreUnavailable) and e.retry_after for e in told)
                        await asyncio.sleep(0.2)
                with pytest.raises(StoreUnavailable, match="cannot be reached: check that it runs"):
                    await store.probe()
            finally:
                own_server.start()
            assert await comes(lambda: store.get_grant(GRANT.key)) == GRANT
            await store.probe()
            assert await store.get_grant(row_key(2)) is None

    async def test_one_that_hangs_holds_nobody_up(self, own_server: PostgresServer) -> None:
        async with opened(own_server.settings(own_server.create_database())) as store:
            await store.put_grant(GRANT, replaces=None)
            await asyncio.gather(*(store.get_grant(GRANT.key) for _ in range(20)))
            own_server.freeze()
            try:
                async with asyncio.timeout(AT_ONCE):
                    told = await asyncio.gather(
                        *(store.get_grant(GRANT.key) for _ in range(50)), return_exceptions=True
                    )
                    assert all(isinstance(e, StoreUnavailable) for e in told)
            finally:
                own_server.thaw()
            assert await comes(lambda: store.get_grant(GRANT.key)) == GRANT

    async def test_one_that_takes_no_writes(
        self, settings: PostgresSettings, postgres_server: PostgresServer
    ) -> None:
        async with opened(settings) as store:
            await store.put_grant(GRANT, replaces=None)
            postgres_server.sql(f"ALTER DATABASE {settings.database} SET default_transaction_read_only = on")
            postgres_server.disconnect(settings.database)
            with pytest.raises(StoreUnavailable, match="takes no writes"):
                await store.put_grant(grant_row(2), replaces=None)
            postgres_server.sql(f"ALTER DATABASE {settings.database} RESET default_transaction_read_only")
            assert await comes(lambda: store.put_grant(grant_row(2), replaces=None))

    async def test_its_tables_are_gone(
        self, settings: PostgresSettings, postgres_server: PostgresServer
    ) -> None:
        async with opened(settings) as store:
            postgres_server.sql("DROP TABLE grants", settings.database)
            with pytest.raises(StoreUnavailable, match=r"its tables are gone: restore a dump \(42P01\)"):
                await store.get_grant(GRANT.key)

    async def test_all_connections_are_in_use(
        self, settings: PostgresSettings, postgres_server: PostgresServer
    ) -> None:
        """More at once than there are connections wait for one; nobody waits for long."""
        async with opened(replace(settings, connections=2)) as store:
            await store.put_grant(GRANT, replaces=None)
            assert await asyncio.gather(*(store.get_grant(GRANT.key) for _ in range(100))) == [GRANT] * 100
            with holding(postgres_server, settings, "LOCK TABLE grants"):
                async with asyncio.timeout(AT_ONCE):
                    told = await asyncio.gather(
                        *(store.get_grant(GRANT.key) for _ in range(10)), return_exceptions=True
                    )
            said = [error.message for error in told if isinstance(error, StoreUnavailable)]
            assert len(said) == 10
            assert any("are in use" in message for message in said)

    async def test_a_closed_store(self, settings: PostgresSettings) -> None:
        store = await PostgresStore.open(settings)
        writes = [asyncio.create_task(store.put_grant(grant_row(n), replaces=None)) for n in range(20)]
        await asyncio.sleep(0)
        await store.close()
        await store.close()
        assert await asyncio.gather(*writes) == [True] * 20, "what was asked for is done"
        with pytest.raises(StoreUnavailable, match="closed"):
            await store.get_grant(row_key(1))

    async def test_a_write_whose_caller_is_cancelled_still_happens(self, settings: PostgresSettings) -> None:
        async with opened(settings) as store:
            write = asyncio.create_task(store.put_grant(GRANT, replaces=None))
            await asyncio.sleep(0)
            write.cancel()
            with pytest.raises(asyncio.CancelledError):
                await write
        async with opened(settings) as store:
            assert await store.get_grant(GRANT.key) == GRANT


@contextmanager
def holding(server: PostgresServer, settings: PostgresSettings, statement: str) -> Iterator[Holder]:
    """Another's transaction that has sent this statement, and does not end."""
    with psycopg.connect(
        host=str(server.data), port=server.port, user="postgres", dbname=settings.database
    ) as connection:
        connection.execute(statement)
        yield connection


def _number(sealed: bytes) -> int:
    return int(sealed.split()[0])
