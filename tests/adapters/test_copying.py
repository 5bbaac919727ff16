"""Copying between a file and a database: all of it, as it is, however often it is stopped."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

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
from tests.postgres.server import PostgresServer
from tokenvault_sidecar.adapters import copying
from tokenvault_sidecar.adapters.copy_ends import postgres_end, sqlite_end
from tokenvault_sidecar.adapters.copying import CopyError, End, copy
from tokenvault_sidecar.adapters.kek import FileKek
from tokenvault_sidecar.adapters.keyring import KeyringError, open_keyring
from tokenvault_sidecar.adapters.postgres import PostgresStore
from tokenvault_sidecar.adapters.postgres_connecting import PostgresSettings, parameters
from tokenvault_sidecar.adapters.rows import key_values
from tokenvault_sidecar.adapters.sqlite import SqliteStore
from tokenvault_sidecar.adapters.statements import INSERT_KEY
from tokenvault_sidecar.adapters.stores import ServedStore
from tokenvault_sidecar.core.model import ContextKind
from tokenvault_sidecar.core.ports import Attempt

GRANTS = 60
TABLES = ("grants", "delegations", "outcomes", "revocations", "keys")


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "PAGE", 7)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store is, or is to be: a file or a database."""

    of: Path | PostgresSettings

    async def open(self) -> ServedStore:
        return (
            await PostgresStore.open(self.of)
            if isinstance(self.of, PostgresSettings)
            else SqliteStore.open(self.of)
        )

    @contextmanager
    def end(self, *, make: bool = True) -> Iterator[End]:
        if isinstance(self.of, PostgresSettings):
            with postgres_end("the database", self.of, make=make) as end:
                yield end
        else:
            with sqlite_end(self.of, make=make) as end:
                yield end

    async def content(self) -> dict[str, list[tuple[object, ...]]]:
        """Every row there is, but for leases."""
        return await asyncio.to_thread(self._content)

    def _content(self) -> dict[str, list[tuple[object, ...]]]:
        with self.end() as end:
            found = {table: end.between(table, None, None) for table in TABLES[:-1]}
            return found | {"keys": [(key,) for key in end.wrapped_keys()]}


@pytest.fixture(params=["to a database", "to a file", "between databases", "between files"])
def places(
    request: pytest.FixtureRequest, tmp_path: Path, postgres_server: PostgresServer
) -> tuple[Place, Place]:
    def file(name: str) -> Place:
        return Place(tmp_path / name)

    def database() -> Place:
        return Place(postgres_server.settings(postgres_server.create_database()))

    match request.param:
        case "to a database":
            return file("from.db"), database()
        case "to a file":
            return database(), file("to.db")
        case "between databases":
            return database(), database()
        case _:
            return file("from.db"), file("to.db")


async def fill(place: Place) -> None:
    store = await place.open()
    keys = [wrapped_key("zz"), wrapped_key("aa"), wrapped_key("mm", NOW + 1.5)]
    assert await store.add_keys([replace(keys[0], purpose="index"), *keys[1:]], first=True)
    await store.count_seals("aa", 2**40)
    for number in range(GRANTS):
        attempt = Attempt(unanswered=number % 3, failures=number % 5, retry_at=NOW + 0.1 * number, reason="r")
        kind = ContextKind.CONVERSATION if number % 2 else ContextKind.CONSUMER
        row = grant_row(
            number * 7 % GRANTS, renew_at=NOW / 3, kind=kind, attempt=attempt, sealed=bytes(range(256))
        )
        assert await store.put_grant(row, replaces=None)
    assert await lease(store, grant_row(0), unanswered=0)
    for number in range(20):
        await store.put_delegation(delegation_row(number), outcome_row(number))
    await store.take_delegation(delegation_row(3).key)
    names = ("_b", "-a", "B", "a", "Z", "0", "ä")
    await store.add_revocations([replace(revocation_row(n), id=name) for n, name in enumerate(names)])
    await store.close()


async def copy_all(source: Place, target: Place, *, stop_after: int | None = None) -> int:
    """As the command does: where no event loop runs."""
    steps = 0

    def progress(_: int) -> None:
        nonlocal steps
        steps += 1
        if steps == stop_after:
            raise KeyboardInterrupt

    def work() -> int:
        with source.end(make=False) as one, target.end() as other:
            return copy(one, other, progress)

    return await asyncio.to_thread(work)


async def test_all_is_there_as_it_was(places: tuple[Place, Place]) -> None:
    source, target = places
    await fill(source)
    before = await source.content()
    assert await copy_all(source, target) == GRANTS + 20 + 20 + 7
    assert await target.content() == before
    assert await source.content() == before
    store = await target.open()
    taken = await store.get_taken(delegation_row(3).key)
    assert taken == delegation_row(3)
    leased = await store.get_grant(row_key(0))
    assert leased is not None
    assert leased.attempt == Attempt(unanswered=1, retry_at=NOW, reason="r"), "its lease stayed behind"
    await store.close()


async def test_many_rows_go_in_one_statement(places: tuple[Place, Place]) -> None:
    """Over a network each statement takes a round trip: none for each row."""
    source, target = places
    await fill(source)
    sent: list[str] = []
    pages: list[int] = []

    def work() -> None:
        with source.end(make=False) as one, target.end() as other:

            def execute(statement: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
                sent.append(statement)
                return other.execute(statement, values)

            copy(one, replace(other, execute=execute), pages.append)

    await asyncio.to_thread(work)
    keys, asked = 3, 3  # of keys: before, among, and after the rows
    assert len(sent) == 2 * len(pages) + keys + asked, "each page is read, written, and compared"
    assert max(pages) == copying.PAGE


async def test_it_goes_on_where_it_was_stopped(places: tuple[Place, Place]) -> None:
    """However often; and what was changed in between is brought up to date."""
    source, target = places
    await fill(source)
    for steps in (1, 4, 11):
        with pytest.raises(KeyboardInterrupt):
            await copy_all(source, target, stop_after=steps)
        half = await target.open()
        with pytest.raises(KeyringError, match="where copying to it was stopped, finish that"):
            await open_keyring(half, FileKek(bytes(32)), NOW)
        await half.close()
        assert not (await target.content())["keys"], "it serves nobody yet"
    store = await source.open()
    await store.put_grant(grant_row(5, version="v2"), replaces="v1")
    assert await store.forget_context(row_key(10), version="v1")
    await store.put_grant(grant_row(1000), replaces=None)
    await store.drop_revocation("a")
    await store.close()
    await copy_all(source, target)
    assert await target.content() == await source.content()


async def test_a_store_in_use_is_not_written_to(places: tuple[Place, Place]) -> None:
    source, target = places
    await fill(source)
    await copy_all(source, target)
    store = await target.open()
    await store.put_grant(grant_row(5, version="v2"), replaces="v1")
    await store.close()
    with pytest.raises(CopyError, match="is a store in use: name an empty one, nothing was written"):
        await copy_all(source, target)
    store = await target.open()
    kept = await store.get_grant(row_key(5))
    await store.close()
    assert kept is not None
    assert kept.version == "v2"


async def test_what_is_no_store_is_not_copied(places: tuple[Place, Place]) -> None:
    source, target = places
    with pytest.raises(CopyError, match=r"there is no such store|holds no store yet"):
        await copy_all(source, target)
    await (await source.open()).close()
    with pytest.raises(CopyError, match="holds no keys, so nothing to copy"):
        await copy_all(source, target)


@pytest.mark.parametrize("end", ["source", "target"])
async def test_nobody_serves_meanwhile(places: tuple[Place, Place], end: str) -> None:
    source, target = places
    await fill(source)
    served = await (source if end == "source" else target).open()
    assert await served.get_grant(row_key(2000)) is None
    with pytest.raises(
        CopyError, match=r"a process has it open: stop the sidecar first|are open: stop them first"
    ):
        await copy_all(source, target)
    await served.close()
    await copy_all(source, target)


@pytest.mark.parametrize("end", [0, 1], ids=["source", "target"])
async def test_a_sidecar_that_comes_meanwhile_is_seen_before_the_keys_are_there(
    places: tuple[Place, Place], end: int
) -> None:
    """So that it can be stopped, and the copy gone on with."""
    source, target = places
    await fill(source)
    settings = places[end].of
    if not isinstance(settings, PostgresSettings):
        return  # a file is locked

    def work() -> None:
        with source.end(make=False) as one, target.end() as other, ExitStack() as sidecar:

            def meddle(_: int) -> None:
                sidecar.enter_context(psycopg.connect(**parameters(settings)))

            with pytest.raises(CopyError, match="of sidecars are open: stop them first"):
                copy(one, other, meddle)
            assert not other.wrapped_keys()

    with suppress(CopyError):  # the connections may take a moment to be gone
        await asyncio.to_thread(work)
    await eventually(lambda: copied(source, target))
    assert await target.content() == await source.content()


async def test_keys_that_are_wrapped_anew_meanwhile_are_not_copied_as_they_were(
    places: tuple[Place, Place],
) -> None:
    source, target = places
    await fill(source)
    settings = source.of
    if not isinstance(settings, PostgresSettings):
        return  # a file is locked

    def rewrap(_: int) -> None:
        with psycopg.connect(**parameters(settings)) as connection:
            connection.execute("UPDATE keys SET kek = 'another'")

    def work() -> None:
        with source.end(make=False) as one, target.end() as other:
            with pytest.raises(CopyError, match="its keys were changed meanwhile: copy again"):
                copy(one, other, rewrap)
            assert not other.wrapped_keys()

    await asyncio.to_thread(work)
    await copy_all(source, target)
    assert await target.content() == await source.content()


async def copied(source: Place, target: Place) -> bool:
    """Whether it could be made."""
    try:
        return await copy_all(source, target) > 0
    except CopyError:
        return False


async def test_a_sidecar_that_comes_before_the_first_row_keeps_its_keys(places: tuple[Place, Place]) -> None:
    source, target = places
    await fill(source)

    def work() -> None:
        with source.end(make=False) as one, target.end() as other:

            def meddle(_: int) -> None:
                if not other.wrapped_keys():
                    other.execute(INSERT_KEY, key_values(wrapped_key("another's")))

            with pytest.raises(CopyError, match="a sidecar has begun to serve it"):
                copy(one, other, meddle)
            assert other.wrapped_keys() == [wrapped_key("another's")]

    await asyncio.to_thread(work)


async def test_a_copy_that_differs_is_told(places: tuple[Place, Place]) -> None:
    """Somebody writes to the target once its rows are there: it gets no keys."""
    source, target = places
    await fill(source)

    def work() -> None:
        with source.end(make=False) as one, target.end() as other:

            def meddle(_: int) -> None:
                other.execute("UPDATE grants SET version = 'other' WHERE key = :key", {"key": row_key(0)})

            with pytest.raises(CopyError, match="differs from"):
                copy(one, other, meddle)
            assert not other.wrapped_keys()

    await asyncio.to_thread(work)
