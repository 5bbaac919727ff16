"""Counting what a store holds: right, and without reading a grant."""

import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pysqlite3
import pytest

from tokenvault_sidecar.adapters import statements as sql
from tokenvault_sidecar.adapters.sqlite import SqliteStore
from tokenvault_sidecar.adapters.sqlite_stock import take_stock
from tokenvault_sidecar.core.errors import StoreUnavailable
from tokenvault_sidecar.core.model import ContextKind
from tokenvault_sidecar.core.ports import Attempt, GrantRow, RevocationRow, Stock, WrappedKey

NOW = 1_800_000_000.0


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore.open(tmp_path / "vault.db")
    yield store
    await store.close()


async def test_what_there_is(store: SqliteStore, tmp_path: Path) -> None:
    keys = [
        WrappedKey(str(n), purpose, "k", b"w", NOW + n) for n, purpose in enumerate(("data", "data", "index"))
    ]
    assert await store.add_keys(keys, first=True)
    grants = [
        ("acme", ContextKind.CONSUMER, NOW + 5, Attempt()),
        ("acme", ContextKind.CONSUMER, NOW - 5, Attempt(unanswered=1)),
        ("acme", ContextKind.CONSUMER, NOW - 9, Attempt(retry_at=NOW + 60)),
        ("acme", ContextKind.CONVERSATION, None, Attempt()),
        ("other", ContextKind.CONVERSATION, None, Attempt()),
    ]
    for number, (brand, kind, due, attempt) in enumerate(grants):
        row = GrantRow(
            key=bytes([number]) * 32,
            brand=brand,
            kind=kind,
            version="v",
            sealed=b"sealed",
            purge_at=NOW + 100,
            renew_at=due,
            attempt=attempt,
        )
        assert await store.put_grant(row, replaces=None)
    await store.add_revocations([RevocationRow("r", "acme", NOW, NOW + 1, b"sealed")])
    assert take_stock(tmp_path / "vault.db", ("acme", "other"), NOW) == Stock(
        {("acme", "consumer"): 3, ("acme", "conversation"): 1, ("other", "conversation"): 1},
        {"acme": NOW + 5},
        1,
        NOW + 1,
    )


async def test_no_grant_is_read(store: SqliteStore, tmp_path: Path) -> None:
    with closing(pysqlite3.connect(tmp_path / "vault.db")) as connection:
        for statement in (sql.STOCK_GRANTS, sql.STOCK_REVOCATIONS):
            (step,) = connection.execute(f"EXPLAIN QUERY PLAN {statement}", {"now": 0.0}).fetchall()
            assert "USING COVERING INDEX" in step[-1]
        values = {"brand": "acme", "now": NOW}
        (step,) = connection.execute(f"EXPLAIN QUERY PLAN {sql.STOCK_NEXT_DUE}", values).fetchall()
        assert step[-1].startswith("SEARCH grants USING INDEX")


async def test_a_store_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        take_stock(tmp_path / "nowhere.db", ("acme",), time.time())
