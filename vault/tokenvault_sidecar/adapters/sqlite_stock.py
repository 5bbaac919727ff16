"""What a SQLite store holds, counted through indexes, on a connection of its own."""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pysqlite3

from tokenvault_sidecar.adapters import statements as sql
from tokenvault_sidecar.adapters.sqlite_writer import unavailable
from tokenvault_sidecar.core.ports import Stock

_LOCK_TIMEOUT = 5.0


def take_stock(path: Path, brands: Iterable[str], now: float) -> Stock:
    """What there is now.

    Blocks, for some 150 ms with a million grants: for a thread. Raises StoreUnavailable.
    """
    try:
        uri = f"{path.resolve().as_uri()}?mode=ro"
        with closing(pysqlite3.connect(uri, uri=True, timeout=_LOCK_TIMEOUT)) as connection:
            grants = {(brand, kind): n for brand, kind, n in connection.execute(sql.STOCK_GRANTS)}
            due = {
                brand: row[0]
                for brand in brands
                for row in connection.execute(sql.STOCK_NEXT_DUE, {"brand": brand, "now": now}).fetchall()
            }
            ((waiting,),) = connection.execute(sql.STOCK_REVOCATIONS, {"now": now}).fetchall()
            ((created,),) = connection.execute(sql.STOCK_YOUNGEST_KEY).fetchall()
    except pysqlite3.Error as error:
        raise unavailable(error) from None
    return Stock(grants, due, waiting, created)
