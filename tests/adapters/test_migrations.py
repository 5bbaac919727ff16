"""Every migration there is, from every earlier schema, with rows in it and programs at work on it.

A migration that is added is tested by these as they are.
"""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pysqlite3
import pytest

from tests.adapters import spoken
from tests.postgres.server import PostgresServer
from tokenvault_sidecar.adapters import postgres_schema, sqlite_schema
from tokenvault_sidecar.adapters.postgres import PostgresStore
from tokenvault_sidecar.adapters.sqlite import SqliteStore
from tokenvault_sidecar.adapters.sqlite_file import open_file

POSTGRES, SQLITE = len(postgres_schema.MIGRATIONS), len(sqlite_schema.MIGRATIONS)
SAMPLES: dict[str, Any] = {
    "bytea": b"sealed", "text": "a text", "double precision": 1.5, "integer": 3, "bigint": 4,
    "BLOB": b"sealed", "TEXT": "a text", "REAL": 1.5, "INTEGER": 3,
}  # fmt: skip
"""A value for a column of each type."""


@pytest.mark.parametrize("version", range(1, SQLITE + 1))
async def test_a_file_of_an_earlier_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """Its rows are there when the current program has opened it."""
    path = tmp_path / "vault.db"
    monkeypatch.setattr(sqlite_schema, "MIGRATIONS", sqlite_schema.MIGRATIONS[:version])
    reader, writer = open_file(path, lock_timeout=5.0)
    rows: dict[str, dict[str, Any]] = {}
    names = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
    for (table,) in writer.execute(names).fetchall():
        columns = writer.execute(f"PRAGMA table_info({table})").fetchall()
        rows[table] = {name: SAMPLES[kind] for _, name, kind, *_ in columns}
        marks = ", ".join("?" for _ in columns)
        writer.execute(f"INSERT INTO {table} VALUES ({marks})", list(rows[table].values()))
    writer.close()
    reader.close()
    monkeypatch.undo()
    store = SqliteStore.open(path)
    assert await store.schema_version() == SQLITE
    assert (await store.get_keys())[0].wrapped == SAMPLES["BLOB"]
    await store.close()
    with closing(pysqlite3.connect(str(path))) as connection:
        for table, row in rows.items():
            found = connection.execute(f"SELECT {', '.join(row)} FROM {table}").fetchall()
            assert found == [tuple(row.values())], table


@pytest.mark.parametrize("version", range(1, POSTGRES + 1))
async def test_a_database_of_an_earlier_schema(
    postgres_server: PostgresServer, postgres_database: str, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    settings = postgres_server.settings(postgres_database)
    monkeypatch.setattr(postgres_schema, "MIGRATIONS", postgres_schema.MIGRATIONS[:version])
    await (await PostgresStore.open(settings)).close()
    monkeypatch.undo()
    rows: dict[str, dict[str, Any]] = {}
    columns = postgres_server.sql(
        "SELECT table_name, column_name, data_type FROM information_schema.columns"
        " WHERE table_schema = 'public' AND table_name <> 'tokenvault_schema' AND is_identity = 'NO'",
        postgres_database,
    )
    for table, name, kind in columns:
        rows.setdefault(table, {})[name] = SAMPLES[kind]
    for table, row in rows.items():
        marks = ", ".join("%s" for _ in row)
        statement = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})"
        postgres_server.sql(statement, postgres_database, *row.values())
    store = await PostgresStore.open(settings)
    assert await store.schema_version() == POSTGRES
    assert (await store.get_keys())[0].wrapped == SAMPLES["bytea"]
    await store.close()
    for table, row in rows.items():
        found = postgres_server.sql(f"SELECT {', '.join(row)} FROM {table}", postgres_database)
        assert found == [tuple(row.values())], table


@pytest.mark.parametrize("version", range(1, POSTGRES + 1))
async def test_what_an_earlier_program_says_is_understood(
    postgres_server: PostgresServer, postgres_database: str, version: int
) -> None:
    """A rolling upgrade: it goes on while the newest schema is there, and the same comes of it."""
    settings = postgres_server.settings(postgres_database)
    await (await PostgresStore.open(settings)).close()
    said = json.loads(spoken.file_of(version).read_text())
    assert spoken.repeat(postgres_server, settings, said) == said


async def test_what_this_program_says_is_recorded(
    postgres_server: PostgresServer, postgres_database: str
) -> None:
    """For later ones to be tried with; `python -m tests.adapters.spoken` does so."""
    said = await spoken.record(postgres_server.settings(postgres_database))
    recorded = json.loads(spoken.file_of(POSTGRES).read_text())
    assert [(line["statement"], line["rows"]) for line in said] == [
        (line["statement"], line["rows"]) for line in recorded
    ], "record it anew; what earlier programs said stays as it is"


@pytest.mark.parametrize(
    "breaks",
    [
        "ALTER TABLE grants ADD COLUMN later text NOT NULL",
        "ALTER TABLE revocations RENAME COLUMN tries TO attempts",
        "ALTER TABLE delegations ADD CHECK (kind <> 'conversation') NOT VALID",
    ],
)
async def test_one_that_an_earlier_program_cannot_live_with_is_found(
    postgres_server: PostgresServer, postgres_database: str, breaks: str
) -> None:
    settings = postgres_server.settings(postgres_database)
    await (await PostgresStore.open(settings)).close()
    postgres_server.sql(breaks, postgres_database)
    said = json.loads(spoken.file_of(POSTGRES).read_text())
    with pytest.raises(psycopg.Error):
        spoken.repeat(postgres_server, settings, said)
