"""pytest fixtures around PostgreSQL; tests/conftest.py makes them known."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.postgres.pooler import Pooler
from tests.postgres.server import PostgresServer, move_to


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for many tests, each with a database of its own. Never stopped in between."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_database(postgres_server: PostgresServer) -> str:
    """A new, empty database there."""
    return postgres_server.create_database()


@pytest.fixture(scope="session")
def postgres_pooler(postgres_server: PostgresServer) -> Iterator[Pooler]:
    """PgBouncer before that server."""
    with Pooler(postgres_server) as pooler:
        yield pooler


PutStore = Callable[[Path], None]
"""Has a development folder's configuration keep its grants where the test's parameter says."""


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def put_store(request: pytest.FixtureRequest) -> PutStore:
    """The test runs on each kind of store; on a database by way of a pooler where it asks for that."""
    if request.param == "sqlite":
        return lambda config: None
    server: PostgresServer = request.getfixturevalue("postgres_server")
    pooler: Pooler | None = None
    if request.param == "pooler":
        pooler = request.getfixturevalue("postgres_pooler")

    def put(config: Path) -> None:
        move_to(server, config, pooler)

    return put
