"""A database where what collides fails, as in the distributed ones; and where it surely collides."""

from tests.postgres.server import PostgresServer

SERIALIZATION_FAILURE, DEADLOCK = "40001", "40P01"
"""SQLSTATEs."""

_TABLES = ("grants", "delegations", "outcomes", "revocations", "keys")
_LINGER = """
    CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_sleep(TG_ARGV[0]::float8); RETURN coalesce(NEW, OLD); END $$
"""


def isolate(server: PostgresServer, database: str, isolation: str) -> None:
    """Have this be the database's default."""
    server.sql(f"ALTER DATABASE {database} SET default_transaction_isolation = '{isolation}'")


def slow_down(server: PostgresServer, database: str, *, seconds: float) -> None:
    """Who changes a row of the store holds it for so long: others come meanwhile."""
    server.sql(_LINGER, database)
    for table in _TABLES:
        server.sql(
            f"CREATE TRIGGER linger BEFORE INSERT OR UPDATE OR DELETE ON {table}"
            f" FOR EACH ROW EXECUTE FUNCTION linger({seconds})",
            database,
        )


def failures(server: PostgresServer, database: str, code: str) -> int:
    """How many statements there have failed with this SQLSTATE."""
    return server.log.count(f"{code} {database} ERROR:")
