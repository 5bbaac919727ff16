"""Coming to the database: past addresses that do not answer, and only to one that loses nothing."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from tests.adapters.store_conformance import grant_row
from tests.adapters.test_postgres import comes, opened
from tests.postgres.server import PostgresServer
from tokenvault_sidecar.adapters.postgres import PostgresStore
from tokenvault_sidecar.adapters.postgres_connecting import PostgresSettings
from tokenvault_sidecar.adapters.stores import StoreOpenError
from tokenvault_sidecar.core.errors import StoreUnavailable

HERE, HOLE, OTHER_HOLE = "127.0.0.1", "127.0.0.2", "127.0.0.3"


@pytest.fixture
def settings(postgres_server: PostgresServer, postgres_database: str) -> PostgresSettings:
    return postgres_server.settings(postgres_database)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What names stand for; those that are not in it are looked up as always."""
    known: dict[str, list[str]] = {}
    look_up = asyncio.BaseEventLoop.getaddrinfo

    async def getaddrinfo(loop: Any, host: Any, port: Any, **how: Any) -> Any:
        found = [await look_up(loop, address, port, **how) for address in known.get(host, [host])]
        return [one for each in found for one in each]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return known


@contextmanager
def black_hole(address: str, port: int) -> Iterator[None]:
    """A place where nobody answers: its queue is full, so that packets are dropped."""
    with ExitStack() as sockets:
        listening = sockets.enter_context(socket.socket())
        listening.bind((address, port))
        listening.listen(0)
        for _ in range(8):
            one = sockets.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex((address, port))
        yield


async def test_addresses_that_do_not_answer_are_passed_over(
    settings: PostgresSettings, names: dict[str, list[str]]
) -> None:
    """Of two hosts each: that takes five seconds once, not each time."""
    names |= {"db1.test": [HOLE], "db2.test": [OTHER_HOLE, HERE]}
    (port,) = settings.ports
    both = replace(settings, hosts=("db1.test", "db2.test"), ports=(port, port))
    with ExitStack() as holes:
        for address in (HOLE, OTHER_HOLE):
            holes.enter_context(black_hole(address, port))
        async with opened(both) as store:
            assert await store.put_grant(grant_row(), replaces=None)
            assert await store.get_grant(grant_row().key) == grant_row()


async def test_where_it_was_last_is_tried_first(
    settings: PostgresSettings, names: dict[str, list[str]], postgres_server: PostgresServer
) -> None:
    asked = 0

    def gone(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        writer.close()

    names["db.test"] = [HOLE, HERE]
    async with (
        await asyncio.start_server(gone, HOLE, settings.ports[0]),
        opened(replace(settings, hosts=("db.test",))) as store,
    ):
        assert asked == 1
        assert await comes(lambda: store.put_grant(grant_row(), replaces=None))
        postgres_server.disconnect(settings.database)
        assert await comes(lambda: store.get_grant(grant_row().key)) == grant_row()
        assert asked == 1


async def test_a_name_that_nobody_knows_is_passed_over_too(settings: PostgresSettings) -> None:
    (port,) = settings.ports
    async with opened(replace(settings, hosts=("db.invalid", HERE), ports=(port, port))) as store:
        assert await store.get_grant(grant_row().key) is None
    with pytest.raises(StoreOpenError, match="cannot be reached"):
        await PostgresStore.open(replace(settings, hosts=("db.invalid",)))


async def test_by_a_socket(settings: PostgresSettings, postgres_server: PostgresServer) -> None:
    here = replace(settings, hosts=(str(postgres_server.data),), user="postgres")
    async with opened(here) as store:
        assert await store.get_grant(grant_row().key) is None


@pytest.mark.parametrize("commits", ["off", "local"])
async def test_commits_that_are_not_durable(
    settings: PostgresSettings, postgres_server: PostgresServer, commits: str
) -> None:
    """At the start; and of a database that comes to be so, new connections."""
    said = f"synchronous_commit = {commits}, and would lose tokens"
    change = f"ALTER DATABASE {settings.database}"
    async with opened(settings) as store:
        assert await store.put_grant(grant_row(), replaces=None)
        postgres_server.sql(f"{change} SET synchronous_commit = {commits}")
        with pytest.raises(StoreOpenError, match=said):
            await PostgresStore.open(settings)
        postgres_server.disconnect(settings.database)
        with pytest.raises(StoreUnavailable, match=said):
            await store.put_grant(grant_row(2), replaces=None)
        postgres_server.sql(f"{change} RESET synchronous_commit")
        assert await comes(lambda: store.put_grant(grant_row(2), replaces=None))


@pytest.mark.parametrize("commits", ["remote_write", "remote_apply"])
async def test_commits_that_are(
    settings: PostgresSettings, postgres_server: PostgresServer, commits: str
) -> None:
    postgres_server.sql(f"ALTER DATABASE {settings.database} SET synchronous_commit = {commits}")
    async with opened(settings) as store:
        assert await store.put_grant(grant_row(), replaces=None)
