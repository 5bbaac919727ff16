"""What is to be known of a SQLite store besides its rows: its file, and who serves it."""

import os
import struct
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pysqlite3

from tokenvault_sidecar.adapters.sqlite_schema import schema_version

# Where SQLite locks a file that is open (its "shared" range), and what fcntl(2) takes on Linux.
_SHARED_FIRST, _SHARED_SIZE = 0x40000002, 510
_FLOCK = "hhqqi4x"


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Sizes in bytes. `served_by`: a process that has it open, and its resident memory where that is told."""

    schema: int
    size: int
    log_size: int
    served_by: int | None
    memory: int | None


def look_at(path: Path) -> FileFacts:
    """The file as it is now. Not in a process that has it open: its own locks would go.

    Raises OSError, UnusableSchema, pysqlite3.Error.
    """
    pid = _holder(path)
    log = path.with_name(path.name + "-wal")
    log_size = log.stat().st_size if log.exists() else 0
    uri = f"{path.resolve().as_uri()}?mode=rw"
    with closing(pysqlite3.connect(uri, uri=True, timeout=5.0, isolation_level=None)) as connection:
        schema = schema_version(connection)
    return FileFacts(schema, path.stat().st_size, log_size, pid, _memory(pid) if pid else None)


def _holder(path: Path) -> int | None:
    """A process that has the file open in WAL mode: asked of the lock that SQLite holds for as long."""
    if sys.platform != "linux":
        return None
    import fcntl

    descriptor = os.open(path, os.O_RDONLY)
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _SHARED_FIRST, _SHARED_SIZE, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    finally:
        os.close(descriptor)
    # No number for a process of another container.
    return pid if kind != fcntl.F_UNLCK and pid > 0 else None


def _memory(pid: int) -> int | None:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    sizes = [line.split() for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(sizes[0][1]) * 1024 if sizes else None
