"""Copies of a SQLite store: taken while it is served, and put in its place again while it is not.

A connection in WAL mode holds a shared lock on the file for as long as it is
open, and so tells whether anybody serves it: no lock file can be left behind
or forgotten. A copy is sealed as the store is, and opens by the same KEK only.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pysqlite3

from tokenvault_sidecar.adapters.sqlite_file import open_file, prepare, problem
from tokenvault_sidecar.adapters.sqlite_schema import (
    APPLICATION_ID,
    Connection,
    UnusableSchema,
    schema_version,
)
from tokenvault_sidecar.adapters.stores import StoreOpenError
from tokenvault_sidecar.core.ports import WrappedKey

_LOCK_TIMEOUT = 5.0
_KEYS = "SELECT id, purpose, kek, wrapped, created_at FROM keys ORDER BY created_at, rowid"
# What was redeemed since the backup is not known: to the server, redeeming it again may be a replay.
_MARK_AMBIGUOUS = """
    UPDATE grants
    SET unanswered = max(unanswered, 1), lease_owner = NULL, lease_boot = NULL, lease_until = NULL
"""


class BackupError(Exception):
    """The copy cannot be taken or put in place; the text says why and what to do. Nothing was changed."""


def back_up(path: Path, target: Path) -> int:
    """Copy the store as it is at one moment into a new file of mode 0600; how many grants it holds.

    The file has its name only once it is whole and on the disk. Readers and
    writers go on meanwhile. Raises BackupError.
    """
    if os.path.lexists(target):
        raise BackupError(f"{target}: is there already: name a new file")
    if not path.is_file():
        raise BackupError(f"{path}: there is no store yet")
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".partial")
    except OSError as error:
        raise BackupError(f"{target}: cannot be made: {error.strerror}") from None
    partial = Path(name)
    try:
        with told(path), closing(_connect(path)) as store:
            schema_version(store)
            store.execute("VACUUM INTO ?", (name,))
            with closing(_connect(partial)) as copy:
                ((grants,),) = copy.execute("SELECT count(*) FROM grants").fetchall()
        os.fsync(descriptor)
        if os.path.lexists(target):
            raise BackupError(f"{target}: is there by now: name a new file")
        partial.rename(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise BackupError(f"{target}: cannot be written: {error.strerror}") from None
    finally:
        os.close(descriptor)
        partial.unlink(missing_ok=True)
    return int(grants)


def restore(file: Path, path: Path, check_keys: Callable[[Sequence[WrappedKey]], object]) -> int:
    """Put the copy in the store's place, in one transaction; how many grants it holds.

    `check_keys` raises where the keys in it do not open. Its grants are marked
    ambiguous, pending delegations are deleted, waiting revocations stay.
    Raises BackupError, and what `check_keys` does.
    """
    if not file.is_file():
        raise BackupError(f"{file}: there is no such file")
    if path.exists() and path.samefile(file):
        raise BackupError(f"{file}: is the store itself: name a backup")
    is_new = not path.exists()
    restored = False
    try:
        with closing(seize(path)) as store:
            scratch = path.with_name(f".{path.name}.restoring")
            try:
                shutil.rmtree(scratch, ignore_errors=True)  # one that was killed left it
                scratch.mkdir(mode=0o700)
                grants = _readied(file, scratch / path.name, check_keys)
                with told(path), closing(_connect(scratch / path.name)) as source:
                    source.backup(store)
                restored = True
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
                if is_new and not restored:  # while it is held: else it may be another's by now
                    path.unlink(missing_ok=True)
    except OSError as error:
        raise BackupError(f"{path.parent}: cannot be written: {error.strerror}") from None
    return grants


def _readied(file: Path, copy: Path, check_keys: Callable[[Sequence[WrappedKey]], object]) -> int:
    """Make a copy that was checked, is of the current schema, and knows that it is old."""
    with told(file), closing(_connect(file, mode="ro")) as source:
        if schema_version(source) == 0:
            raise BackupError(f"{file}: is no token vault's database: name a backup")
        prepare(copy)
        with closing(_connect(copy)) as target:
            source.backup(target)
            if target.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                raise BackupError(f"{file}: is damaged: restore another backup")
    try:
        reader, writer = open_file(copy, lock_timeout=_LOCK_TIMEOUT)
    except StoreOpenError as error:
        raise BackupError(str(error)) from None
    with closing(writer):
        with closing(reader):
            check_keys([WrappedKey(*row) for row in reader.execute(_KEYS).fetchall()])
        writer.execute("BEGIN IMMEDIATE")
        grants = writer.execute(_MARK_AMBIGUOUS).rowcount
        writer.execute("DELETE FROM delegations")
        writer.execute("DELETE FROM outcomes")
        writer.execute("COMMIT")
        writer.execute("PRAGMA journal_mode=DELETE").fetchall()
    return int(grants)


def seize(path: Path) -> Connection:
    """The store, made where it is missing, held so that nobody opens it. Raises BackupError."""
    try:
        prepare(path)
    except StoreOpenError as error:
        raise BackupError(str(error)) from None
    store = _connect(path)
    try:
        with told(path):
            # Its schema may be any: a newer program's is what one goes back from.
            ((application,),) = store.execute("PRAGMA application_id").fetchall()
            ((tables,),) = store.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            if tables and application != APPLICATION_ID:
                raise BackupError(f"{path}: is another program's database: correct the path")
            # Fails where another connection has it open. What a process that was killed left is taken in.
            store.execute("PRAGMA journal_mode=DELETE").fetchall()
            store.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()
            store.execute("BEGIN EXCLUSIVE")
            store.execute("COMMIT")
    except BaseException:
        store.close()
        raise
    return store


def _connect(path: Path, *, mode: str = "rw") -> Connection:
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    return pysqlite3.connect(uri, uri=True, timeout=1.0, isolation_level=None)


@contextmanager
def told(path: Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except UnusableSchema as error:
        raise BackupError(f"{path}: {error}") from None
    except pysqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith("SQLITE_BUSY"):
            raise BackupError(f"{path}: a process has it open: stop the sidecar first") from None
        if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
            raise BackupError(
                f"{path}: is damaged: if it is the backup, use another; "
                "if it is the store, move it away with its -wal and -shm files and restore again"
            ) from None
        raise BackupError(f"{path}: {problem(error)}") from None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
