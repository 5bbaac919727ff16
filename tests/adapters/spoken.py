"""What a program of some schema version says to its PostgreSQL database, kept to be said to later schemas.

A file in the folder `spoken` for each schema version. That of the current
version follows the code: `python -m tests.adapters.spoken` writes it. Once a
migration is added its file stays as it is, for in a rolling upgrade that
program goes on while the newer one's schema is there.
"""

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psycopg
from psycopg import AsyncCursor

from tests.adapters.store_conformance import (
    LEASE,
    NOW,
    delegation_row,
    grant_row,
    outcome_row,
    revocation_row,
    row_key,
    wrapped_key,
)
from tests.postgres.server import PostgresServer
from tokenvault_sidecar.adapters.postgres import PostgresStore
from tokenvault_sidecar.adapters.postgres_connecting import PostgresSettings
from tokenvault_sidecar.adapters.postgres_schema import MIGRATIONS
from tokenvault_sidecar.core.ports import SEALED_HEAD, Attempt, Completion

FOLDER = Path(__file__).with_name("spoken")

Said = dict[str, Any]
"""A `statement`, its `values`, and how many `rows` it changed or found."""


def file_of(version: int) -> Path:
    return FOLDER / f"postgres-{version}.json"


async def record(settings: PostgresSettings) -> list[Said]:
    """All that a store says while each of its methods does what it is for, on an empty database."""
    store = await PostgresStore.open(settings)
    said: list[Said] = []
    execute, executemany = AsyncCursor.execute, AsyncCursor.executemany

    async def listen(cursor: Any, statement: Any, values: Any = None, **options: Any) -> Any:
        done = await execute(cursor, statement, values, **options)
        said.append(_said(statement, values, cursor.rowcount))
        return done

    async def listen_to_many(cursor: Any, statement: Any, each: Iterable[Any], **options: Any) -> None:
        values = list(each)
        await executemany(cursor, statement, values, **options)
        said.extend(_said(statement, one, 1) for one in values)

    try:
        with (
            patch.object(AsyncCursor, "execute", listen),
            patch.object(AsyncCursor, "executemany", listen_to_many),
        ):
            await play(store)
    finally:
        await store.close()
    return said


def repeat(server: PostgresServer, settings: PostgresSettings, said: Iterable[Said]) -> list[Said]:
    """What comes of the same when it is said by that role now."""
    assert settings.password_file is not None
    again = []
    with psycopg.connect(
        host=settings.hosts[0],
        port=settings.ports[0],
        user=settings.user,
        dbname=settings.database,
        password=settings.password_file.read_text().strip(),
        autocommit=True,
    ) as connection:
        for line in said:
            values = {name: _value(value) for name, value in line["values"].items()}
            cursor = connection.execute(line["statement"], values)
            again.append(line | {"rows": cursor.rowcount})
    return again


async def play(store: PostgresStore) -> None:
    """Each method once at least, with effect."""
    a, b, c = (wrapped_key(name, NOW + number) for number, name in enumerate("abc"))
    assert await store.add_keys([a, b], first=True)
    assert await store.add_data_key(c, after="b")
    rewrapped = [replace(key, wrapped=b"anew") for key in await store.get_keys()]
    assert await store.rewrap_keys(rewrapped, were=[a, b, c])
    await store.count_seals("c", 5)

    pending, outcome = delegation_row(), outcome_row()
    await store.put_delegation(pending, outcome)
    assert await store.get_delegation(pending.key) == pending
    taker = await store.take_delegation(pending.key)
    assert taker is not None
    assert await store.give_back_delegation(pending.key, taker)
    assert await store.take_delegation(pending.key)
    held = replace(pending, sealed=b"held")
    assert await store.change_taken(
        held, was=pending.sealed, outcome=outcome, revocations=[revocation_row(1)]
    )
    assert await store.get_taken(pending.key) == held
    completes = Completion(pending.key, outcome, held.sealed, ["revocation-1"])
    assert await store.put_grant(grant_row(), replaces=None, completes=completes)
    ended = delegation_row(2)
    await store.put_delegation(ended, outcome_row(2))
    assert await store.take_delegation(ended.key)
    assert await store.end_taken(ended, outcome=outcome_row(2, sealed=b"ended"))
    assert await store.set_outcome(outcome_row(2, sealed=b"told"))
    assert await store.get_outcome(outcome_row(2).key)
    assert len(await store.latest_outcomes(row_key(1), after=NOW, limit=9)) == 2

    row = grant_row(version="v2")
    assert await store.acquire_lease(row.key, version="v1", unanswered=0, owner="me", seconds=LEASE)
    assert await store.put_grant(row, replaces="v1", owner="me")
    assert await store.touch_grant(replace(row, sealed=b"touched"), was=row.sealed)
    assert await store.acquire_lease(row.key, version="v2", unanswered=0, owner="me", seconds=LEASE)
    assert await store.release_lease(row.key, owner="me", attempt=Attempt(failures=1, retry_at=NOW))
    assert await store.get_grant(row.key)
    assert await store.due_grants(NOW + 100.0, brand="acme", limit=9)
    assert await store.ended_grants(NOW + 1000.0, limit=9)
    assert await store.grants_after(b"", brand="acme", limit=9)
    await store.count(NOW)
    await store.take_stock(["acme"], NOW)

    head = b"touched".ljust(SEALED_HEAD)
    assert await store.touch_grant(replace(row, sealed=head + b"1"), was=b"touched")
    assert await store.count_sealed(head) == 1
    found = await store.sealed_records(head, limit=9)
    assert await store.reseal([(record, b"sealed anew") for record in found]) == 1
    assert await store.drop_data_key("a", head=head)

    await store.add_revocations([revocation_row(2)])
    assert await store.due_revocations(NOW, limit=9)
    assert await store.postpone_revocation("revocation-2", tries=1, due_at=NOW + 1.0)
    await store.drop_revocation("revocation-2")
    assert await store.forget_context(row.key, version="v2", revocations=[revocation_row(3)])
    await store.put_delegation(delegation_row(3))
    assert await store.void_delegations(brand="acme") == 1
    await store.put_delegation(delegation_row(4, expires_at=NOW - 1.0))
    assert await store.purge_delegations(NOW, taken=NOW) == 1
    await store.probe()
    await store.schema_version()
    await store.size()


def _said(statement: Any, values: Mapping[str, Any] | None, rows: int) -> Said:
    given = {
        name: {"hex": value.hex()} if isinstance(value, bytes) else value
        for name, value in (values or {}).items()
    }
    return {"statement": " ".join(str(statement).split()), "values": given, "rows": rows}


def _value(value: Any) -> Any:
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value


async def _main() -> None:
    with PostgresServer() as server:
        text = json.dumps(await record(server.settings(server.create_database())), indent=1)
    FOLDER.mkdir(exist_ok=True)
    file_of(len(MIGRATIONS)).write_text(text + "\n")


if __name__ == "__main__":
    asyncio.run(_main())
