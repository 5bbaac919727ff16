"""What a sidecar asks of its store, at its start and ever after, costs the same with a million grants."""

import asyncio
from pathlib import Path
from typing import Any

import pysqlite3
import pytest

from tests.adapters.store_conformance import NOW, grant_row
from tests.core.world import CHAT, World
from tokenvault_sidecar.adapters.sqlite import SqliteStore
from tokenvault_sidecar.core.ports import SEALED_HEAD

GROWING = ("grants", "delegations", "outcomes", "revocations")
"""The tables that grow with use."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that SQLite runs from here on, with its values."""
    statements: list[str] = []
    connect = pysqlite3.connect

    def tracing(*arguments: Any, **options: Any) -> Any:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(pysqlite3, "connect", tracing)
    return statements


def scans(path: Path, statements: list[str]) -> list[str]:
    """Those that read a growing table from one end to the other."""
    connection = pysqlite3.connect(str(path))
    found = []
    for statement in dict.fromkeys(statements):
        if statement.lstrip().partition(" ")[0].upper() not in ("SELECT", "UPDATE", "DELETE", "INSERT"):
            continue
        for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall():
            words = step.split()
            if words[0] == "SCAN" and words[1] in GROWING:
                found.append(f"{step}: {statement}")
    connection.close()
    return found


async def test_starting_and_keeping_house_scan_no_table(tmp_path: Path, asked: list[str]) -> None:
    path = tmp_path / "vault.db"
    store = SqliteStore.open(path)
    rows = [grant_row(number, renew_at=NOW + number, purge_at=NOW + number) for number in range(2000)]
    await asyncio.gather(*(store.put_grant(row, replaces=None) for row in rows))
    await store.close()
    asked.clear()

    store = SqliteStore.open(path)
    world = World(store=store)
    world.clock.now = NOW + 5
    await store.get_keys()
    await world.housekeeping.purge()
    await world.housekeeping.renew("acme")
    await world.revoker.work()
    head = b"0" * SEALED_HEAD
    await store.sealed_records(head, limit=5)
    await store.count_sealed(head)
    await store.drop_data_key("d0", head=head)
    await world.delegate()
    await world.get()
    await world.challenge(CHAT)
    await world.settle()
    begun = list(asked)
    assert sum("FROM grants" in statement for statement in begun) >= 3
    assert scans(path, begun) == []

    asked.clear()
    await store.count(NOW)  # which only an operator's command asks for
    assert len(scans(path, list(asked))) >= 1
    await store.close()
