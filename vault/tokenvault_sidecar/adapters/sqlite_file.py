"""Opening a SQLite store's file: modes, checks and settings, before anything is read from it."""

import os
import stat
import time
from pathlib import Path

import pysqlite3

from tokenvault_sidecar.adapters.sqlite_schema import (
    Connection,
    UnusableSchema,
    migrate,
    patiently,
    schema_version,
)
from tokenvault_sidecar.adapters.stores import StoreOpenError

MINIMUM_SQLITE = (3, 51, 3)
"""Older ones can corrupt a WAL file shared by connections (the WAL-reset bug)."""

_MODE = 0o600


def check_sqlite(version: tuple[int, ...]) -> None:
    """Refuse an SQLite that may corrupt the file. Raises StoreOpenError."""
    if version < MINIMUM_SQLITE:
        have, need = (".".join(map(str, v)) for v in (version, MINIMUM_SQLITE))
        raise StoreOpenError(
            f"SQLite {have} can corrupt a database in WAL mode: {need} or newer is needed, "
            "upgrade the pysqlite3 package"
        )


def open_file(path: Path, *, lock_timeout: float) -> tuple[Connection, Connection]:
    """A connection for reading and one for writing, on a file of the current schema.

    Makes the file where there is none. Raises StoreOpenError.
    """
    check_sqlite(pysqlite3.sqlite_version_info)
    try:
        prepare(path)
    except OSError as error:
        raise StoreOpenError(f"{path}: {error.strerror}: check the path, its owner and modes") from None
    deadline = time.monotonic() + lock_timeout
    connections: list[Connection] = []
    try:
        # A read blocks the event loop, so it waits briefly; the writer waits by `patiently`.
        for timeout in (0.1, 0.01):
            connections.append(
                pysqlite3.connect(str(path), timeout=timeout, isolation_level=None, check_same_thread=False)
            )
        reader, writer = connections
        patiently(lambda: schema_version(writer), deadline=deadline)
        mode = patiently(lambda: writer.execute("PRAGMA journal_mode=WAL").fetchone()[0], deadline=deadline)
        if mode != "wal":
            raise UnusableSchema("is on a file system without shared memory: move it to a local disk")
        writer.execute("PRAGMA synchronous=FULL")
        writer.execute("PRAGMA secure_delete=ON")
        migrate(writer, deadline=deadline)
        # Fails now, not later, where the side files cannot be written.
        patiently(lambda: writer.execute("BEGIN IMMEDIATE"), deadline=deadline)
        writer.execute("ROLLBACK")
        reader.execute("PRAGMA query_only=ON")
        patiently(lambda: schema_version(reader), deadline=deadline)
    except UnusableSchema as error:
        _close(connections)
        raise StoreOpenError(f"{path}: {error}") from None
    except pysqlite3.Error as error:
        _close(connections)
        raise StoreOpenError(f"{path}: {problem(error)}") from None
    return reader, writer


def prepare(path: Path) -> None:
    """Have the file there with mode 0600: SQLite gives its -wal and -shm files the same, whatever the umask.

    An existing file is not opened: closing it would drop the locks that
    another connection of this process holds (POSIX). Raises StoreOpenError, OSError.
    """
    if not path.parent.is_dir():
        raise StoreOpenError(f"{path}: the folder {path.parent} is not there: make it, or correct the path")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, _MODE)
    except FileExistsError:
        pass
    else:
        os.fchmod(descriptor, _MODE)
        os.close(descriptor)
        return
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise StoreOpenError(f"{path}: is not a file: correct the path")
    if not (mode & stat.S_IWUSR and os.access(path, os.R_OK | os.W_OK)):
        raise StoreOpenError(f"{path}: cannot be read and written: give its owner, us, mode 0600")
    for side in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
        if side.exists() and stat.S_IMODE(side.stat().st_mode) & 0o077:
            side.chmod(_MODE)


def problem(error: pysqlite3.Error) -> str:
    """What is wrong with the file, and what to do."""
    name = getattr(error, "sqlite_errorname", "SQLITE_ERROR")
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return "is damaged or no SQLite database: restore a backup, or name another file"
    if name.startswith("SQLITE_BUSY"):
        return "is locked by another process: end what holds it, a backup or a database tool perhaps"
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")):
        return "cannot be written: check the modes and mount of the file and its folder"
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return f"cannot be written ({name}): check the disk's health and free space"
    return f"cannot be opened ({name}): check that it is a token vault's database"


def _close(connections: list[Connection]) -> None:
    for connection in connections:
        connection.close()
