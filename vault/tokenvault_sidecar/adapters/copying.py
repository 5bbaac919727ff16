"""Copying a store into another one, of its kind or not: rows as they are, sealed, and last the keys.

A store that has rows and no keys serves nobody, and gets no others. So a copy
that was stopped is no store yet and is gone on with, while one that has keys is
never written to. Leases stay behind: nobody serves the source.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

from tokenvault_sidecar.adapters import rows
from tokenvault_sidecar.adapters import statements as sql
from tokenvault_sidecar.core.ports import WrappedKey

PAGE: Final = 500
"""Rows read and written in one go."""

_TABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "grants": (
        "key", "brand", "kind", "version", "sealed", "purge_at", "renew_at",
        "unanswered", "failures", "retry_at", "reason",
    ),
    "delegations": ("key", "context_key", "brand", "kind", "expires_at", "sealed", "taken"),
    "outcomes": ("key", "context_key", "brand", "kind", "purge_at", "sealed"),
    "revocations": ("id", "brand", "due_at", "give_up_at", "sealed", "tries"),
}  # fmt: skip
"""Each table's columns; the first is its key."""

_KEYS = "SELECT id, purpose, kek, wrapped, created_at, seals FROM keys ORDER BY created_at, {added}"


_AMBIGUOUS = """
    UPDATE grants SET unanswered = CASE WHEN unanswered = 0 THEN 1 ELSE unanswered END,
                      lease_owner = NULL, lease_until = NULL
"""


class CopyError(Exception):
    """The copy cannot be made, or is not whole; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class End:
    """A store that is copied from or to, which nobody serves meanwhile.

    `execute` sends a statement with `:name` for each parameter and gives its
    rows; `insert` adds rows of these columns to a table, all in one go;
    `transaction` is around what happens together; `added` is the column by
    which keys of the same time come as they were added; `bytewise` makes texts
    compare as Python compares them; `check` raises CopyError where somebody
    serves it.
    """

    name: str
    execute: Callable[[str, Mapping[str, object]], list[tuple[Any, ...]]]
    insert: Callable[[str, Sequence[str], Sequence[tuple[Any, ...]]], None]
    transaction: Callable[[], AbstractContextManager[object]]
    added: str
    bytewise: str
    check: Callable[[], None] = lambda: None

    def wrapped_keys(self) -> list[WrappedKey]:
        return [WrappedKey(*row) for row in self.execute(_KEYS.format(added=self.added), {})]

    def count(self) -> int:
        """Rows to copy."""
        return sum(self.execute(f"SELECT count(*) FROM {table}", {})[0][0] for table in _TABLES)  # noqa: S608 constants

    def page(self, table: str, after: object) -> list[tuple[Any, ...]]:
        """The next rows in the order of their keys."""
        return self._rows(table, after, None, limit="LIMIT :limit")

    def between(self, table: str, after: object, last: object) -> list[tuple[Any, ...]]:
        """All rows with keys after the one, up to the other; None: from the first, to the last there is."""
        return self._rows(table, after, last)

    def _rows(self, table: str, after: object, last: object, limit: str = "") -> list[tuple[Any, ...]]:
        columns = _TABLES[table]
        key = columns[0] + (self.bytewise if table == "revocations" else "")
        bounds = [f"{key} > :after"] * (after is not None) + [f"{key} <= :last"] * (last is not None)
        where = f"WHERE {' AND '.join(bounds)}" if bounds else ""
        return self.execute(
            f"SELECT {', '.join(columns)} FROM {table} {where} ORDER BY {key} {limit}",  # noqa: S608 constants
            {"after": after, "last": last, "limit": PAGE},
        )


def copy(source: End, target: End, progress: Callable[[int], None]) -> int:
    """Copy all; how many rows there are. `progress` is told how many more are done.

    Goes on where an earlier copy was stopped. Raises CopyError, and what the
    ends' databases raise.
    """
    keys = source.wrapped_keys()
    if not keys:
        raise CopyError(f"{source.name}: holds no keys, so nothing to copy: name the store that is in use")
    if target.wrapped_keys():
        raise CopyError(f"{target.name}: is a store in use: name an empty one, nothing was written")
    for table in _TABLES:
        _copy_table(source, target, table, progress)
    count = source.count()
    if not all(_are_alike(source, target, table) for table in _TABLES):
        raise CopyError(
            f"{target.name}: differs from {source.name}: somebody writes to one, stop it and go on"
        )
    for end in (source, target):
        end.check()
    with target.transaction():
        if target.wrapped_keys():
            raise CopyError(f"{target.name}: a sidecar has begun to serve it: stop it, and name an empty one")
        if source.wrapped_keys() != keys:
            raise CopyError(f"{source.name}: its keys were changed meanwhile: copy again")
        for key in keys:
            target.execute(sql.INSERT_KEY, rows.key_values(key))
    if target.wrapped_keys() != keys:
        raise CopyError(f"{target.name}: has other keys than {source.name}: empty it and copy again")
    return count


def make_ambiguous(end: End) -> int:
    """For a store from the past: what was redeemed since is not known, and to the server may be a replay.

    Deletes what was pending. How many grants there are.
    """
    with end.transaction():
        end.execute(_AMBIGUOUS, {})
        end.execute("DELETE FROM delegations", {})
        end.execute("DELETE FROM outcomes", {})
    return int(end.execute("SELECT count(*) FROM grants", {})[0][0])


def _copy_table(source: End, target: End, table: str, progress: Callable[[int], None]) -> None:
    columns = _TABLES[table]
    key = columns[0]
    delete = f"DELETE FROM {table} WHERE {key} = :{key}"  # noqa: S608 constants
    for wanted, found in _pages(source, target, table):
        there = set(found)
        missing, gone = [row for row in wanted if row not in there], there - set(wanted)
        with target.transaction():
            for row in gone:
                target.execute(delete, {key: row[0]})
            target.insert(table, columns, missing)
        progress(len(wanted))


def _are_alike(source: End, target: End, table: str) -> bool:
    return all(wanted == found for wanted, found in _pages(source, target, table))


def _pages(
    source: End, target: End, table: str
) -> Iterator[tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]]:
    """Rows of both with keys in the same range, range by range."""
    after: object = None
    while True:
        wanted = source.page(table, after)
        last = wanted[-1][0] if len(wanted) == PAGE else None
        yield wanted, target.between(table, after, last)
        if last is None:
            return
        after = last
