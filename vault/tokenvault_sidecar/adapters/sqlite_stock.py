"""What a SQLite store holds, counted through indexes, on a connection of its own."""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pysqlite3

from tokenvault_sidecar.adapters.sqlite_writer import unavailable

COUNT = "SELECT brand, kind, count(*) FROM grants GROUP BY brand, kind"
NEXT_DUE = """
    SELECT renew_at FROM grants
    WHERE brand = ? AND renew_at IS NOT NULL AND (retry_at IS NULL OR retry_at <= ?) AND unanswered = 0
    ORDER BY renew_at LIMIT 1
"""
WAITING = "SELECT count(*) FROM revocations"
YOUNGEST_KEY = "SELECT max(created_at) FROM keys WHERE purpose = 'data'"

_LOCK_TIMEOUT = 5.0


def take_stock(
    path: Path, brands: Iterable[str], now: float
) -> tuple[dict[tuple[str, str], int], dict[str, float], int, float | None]:
    """Grants by brand and kind; the next renewal due by brand; revocations waiting; the youngest data key.

    Blocks, for some 150 ms with a million grants: for a thread. Raises StoreUnavailable.
    """
    try:
        uri = f"{path.resolve().as_uri()}?mode=ro"
        with closing(pysqlite3.connect(uri, uri=True, timeout=_LOCK_TIMEOUT)) as connection:
            grants = {(brand, kind): n for brand, kind, n in connection.execute(COUNT)}
            due = {
                brand: row[0]
                for brand in brands
                for row in connection.execute(NEXT_DUE, (brand, now)).fetchall()
            }
            ((waiting,),) = connection.execute(WAITING).fetchall()
            ((created,),) = connection.execute(YOUNGEST_KEY).fetchall()
    except pysqlite3.Error as error:
        raise unavailable(error) from None
    return grants, due, waiting, created
