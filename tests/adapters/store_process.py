"""Processes that share a store with a test: `python -m tests.adapters.store_process TASK STORE FOLDER`.

STORE is a SQLite file, or a database's `PostgresSettings` in JSON.
"""

import asyncio
import json
import os
import resource
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pysqlite3

from tests.adapters.store_conformance import delegation_row, grant_row, row_key
from tokenvault_sidecar.adapters.postgres import PostgresStore
from tokenvault_sidecar.adapters.postgres_connecting import PostgresSettings
from tokenvault_sidecar.adapters.sqlite import SqliteStore
from tokenvault_sidecar.core.errors import StoreUnavailable
from tokenvault_sidecar.core.model import ContextKind
from tokenvault_sidecar.core.ports import Attempt, GrantRow, Store


def say(line: str) -> None:
    """One write: a line is there whole or not at all, whenever this process is killed."""
    os.write(1, f"{line}\n".encode())


async def opening(store: Store, name: str) -> None:
    """Having opened the file is all."""


async def counting(store: Store, name: str) -> None:
    """Add 1 to a grant's number, 200 times, by compare-and-swap; count how often another was first."""
    lost = 0
    for step in range(200):
        while True:
            row = await store.get_grant(row_key(1))
            assert row is not None
            number = int(row.sealed) + 1
            newer = replace(row, version=f"{name}-{step}", sealed=b"%d" % number)
            if await unless_told(store.put_grant(newer, replaces=row.version)):
                break
            lost += 1
    say(f"lost {lost}")


async def unless_told(change: Awaitable[bool]) -> bool:
    """Whether it was made; not where all collided, and we are to ask again."""
    try:
        return await change
    except StoreUnavailable:
        return False


async def leasing(store: Store, name: str) -> None:
    """Hold the lease 40 times; whoever holds it has the folder's marker to itself."""
    marker = Path(sys.argv[3]) / "marker"
    for turn in range(40):
        owner = f"{name}-{turn}"
        while not await unless_told(lease(store, owner)):  # noqa: ASYNC110 the other is another process
            await asyncio.sleep(0.001)
        marker.touch(exist_ok=False)
        await asyncio.sleep(0)
        marker.unlink()
        assert await store.release_lease(row_key(1), owner=owner, attempt=Attempt(failures=turn))


async def lease(store: Store, owner: str) -> bool:
    row = await store.get_grant(row_key(1))
    assert row is not None
    return await store.acquire_lease(row.key, version=row.version, unanswered=0, owner=owner, seconds=300)


async def taking(store: Store, name: str) -> None:
    """Take each of 100 delegations; say those that were ours."""
    for number in range(100):
        if await store.take_delegation(delegation_row(number).key):
            say(f"took {number}")


async def writing(store: Store, name: str) -> None:
    """Write grants, four at a time, until killed; say each once it is acknowledged."""

    async def write(worker: int) -> None:
        for count in range(sys.maxsize):
            key = f"{name} {worker} {count}".encode().ljust(32)
            assert await store.put_grant(big_grant(key), replaces=None)
            say(f"ack {key.hex()}")

    await asyncio.gather(*(write(worker) for worker in range(4)))


def big_grant(key: bytes) -> GrantRow:
    return GrantRow(key, "acme", ContextKind.CONSUMER, "v1", key * 40, purge_at=1.0)


async def filling(store: Store, name: str) -> None:
    """Write until the files may grow no more, then with the limit lifted."""
    path = Path(sys.argv[2])
    wal = path.with_name(path.name + "-wal")
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (wal.stat().st_size + 40_000, unlimited[1]))
    written = 0
    while True:
        try:
            await store.put_grant(grant_row(written, sealed=b"x" * 2000), replaces=None)
        except StoreUnavailable as error:
            say(f"failed {error.message}")
            break
        written += 1
    assert await store.get_grant(row_key(written)) is None
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    await store.put_grant(grant_row(written), replaces=None)
    for number in range(written + 1):
        assert await store.get_grant(row_key(number)) is not None
    say(f"written {written}")


async def open_store(target: str) -> Store:
    if not target.startswith("{"):
        return SqliteStore.open(Path(target))
    given = json.loads(target)
    lists = {"hosts": tuple(given["hosts"]), "ports": tuple(given["ports"])}
    return await PostgresStore.open(
        PostgresSettings(**given | lists | {"password_file": Path(given["password_file"])})
    )


async def in_store(task: Callable[[Store, str], Awaitable[None]], target: str, name: str) -> None:
    store = await open_store(target)
    try:
        await task(store, name)
    finally:
        await store.close()


def breed(path: Path) -> None:
    """For each line of input, fork a `writing` child and say when it is gone; a fork starts at once."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            say(f"child {os.getpid()}")
            asyncio.run(in_store(writing, str(path), line.strip()))
            os._exit(1)
        os.waitpid(child, 0)
        say("gone")


def hold_lock(path: Path) -> None:
    """Hold the write lock until a line of input comes."""
    connection = pysqlite3.connect(str(path), isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    say("locked")
    sys.stdin.readline()
    connection.execute("ROLLBACK")
    say("released")


if __name__ == "__main__":
    job, where = sys.argv[1:3]
    if job == "breed":
        breed(Path(where))
    elif job == "hold_lock":
        hold_lock(Path(where))
    else:
        jobs = {task.__name__: task for task in (opening, counting, leasing, taking, filling)}
        say("ready")
        sys.stdin.readline()
        asyncio.run(in_store(jobs[job], where, str(os.getpid())))
