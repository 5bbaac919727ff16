"""Group commit: few transactions, and no write fails for its neighbour's sake."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pysqlite3
import pytest

from tokenvault_sidecar.adapters.sqlite_file import open_file
from tokenvault_sidecar.adapters.sqlite_schema import Connection
from tokenvault_sidecar.adapters.sqlite_writer import Writer
from tokenvault_sidecar.core.errors import StoreUnavailable


@asynccontextmanager
async def bench(path: Path) -> AsyncIterator[tuple[Connection, Connection, Writer]]:
    """A reader, the writer's connection, and the writer."""
    reader, connection = open_file(path, lock_timeout=5.0)
    writer = Writer(connection, lock_timeout=5.0)
    try:
        yield reader, connection, writer
    finally:
        await writer.close()
        reader.close()


def insert(key: str, size: int = 10) -> Callable[[Connection], bool]:
    def run(connection: Connection) -> bool:
        values = "VALUES (?, 'data', 'kek', zeroblob(?), 0)"
        connection.execute(f"INSERT INTO keys (id, purpose, kek, wrapped, created_at) {values}", (key, size))
        return True

    return run


def count(reader: Connection) -> int:
    return int(reader.execute("SELECT count(*) FROM keys").fetchall()[0][0])


async def queued_together(path: Path, writer: Writer, *operations: Callable[[Connection], Any]) -> list[Any]:
    """The outcomes of operations that were all queued before the first could be committed."""
    gate = pysqlite3.connect(str(path), isolation_level=None)
    gate.execute("BEGIN IMMEDIATE")
    first = asyncio.create_task(writer.write(lambda connection: None))
    writes = [asyncio.create_task(writer.write(operation)) for operation in operations]
    await asyncio.sleep(0)
    gate.execute("ROLLBACK")
    gate.close()
    await first
    return await asyncio.gather(*writes, return_exceptions=True)


async def test_what_is_queued_is_committed_together(tmp_path: Path) -> None:
    path = tmp_path / "vault.db"
    async with bench(path) as (reader, connection, writer):
        statements: list[str] = []
        connection.set_trace_callback(statements.append)
        outcomes = await queued_together(path, writer, *(insert(f"key-{n}") for n in range(500)))
        assert outcomes == [True] * 500
        assert count(reader) == 500
        assert statements.count("COMMIT") <= 2


async def test_a_write_is_not_told_before_it_is_committed(tmp_path: Path) -> None:
    async with bench(tmp_path / "vault.db") as (reader, _, writer):
        for number in range(50):
            await writer.write(insert(f"key-{number}"))
            assert count(reader) == number + 1


async def test_a_failing_write_fails_alone(tmp_path: Path) -> None:
    def broken(connection: Connection) -> None:
        connection.execute("INSERT INTO nowhere VALUES (1)")

    def blunder(connection: Connection) -> None:
        raise LookupError("a bug of ours")

    path = tmp_path / "vault.db"
    async with bench(path) as (reader, _, writer):
        a, twin, bad, bug, b = await queued_together(
            path, writer, insert("a"), insert("a"), broken, blunder, insert("b")
        )
        assert (a, b) == (True, True)
        assert isinstance(twin, ValueError)
        assert isinstance(bad, StoreUnavailable)
        assert isinstance(bug, LookupError)
        assert count(reader) == 2


async def test_a_full_disk_fails_what_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "vault.db"
    async with bench(path) as (reader, connection, writer):
        await writer.write(insert("old", 20_000))
        ((pages,),) = connection.execute("PRAGMA page_count").fetchall()
        connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()
        big, small = await queued_together(path, writer, insert("big", 50_000), insert("small"))
        assert small is True
        assert isinstance(big, StoreUnavailable)
        assert "full: free space" in big.message
        assert big.retry_after
        assert count(reader) == 2
        with pytest.raises(StoreUnavailable, match="full"):
            await writer.write(insert("big", 50_000))
        connection.execute(f"PRAGMA max_page_count = {pages * 100}").fetchall()
        assert await writer.write(insert("big", 50_000))


async def test_a_write_after_closing_is_refused(tmp_path: Path) -> None:
    async with bench(tmp_path / "vault.db") as (_, _, writer):
        await writer.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await writer.write(insert("late"))
