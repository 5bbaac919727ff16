"""The one thread that writes: it commits all that is queued in one transaction (group commit)."""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pysqlite3

from tokenvault_sidecar.adapters.sqlite_schema import Connection, patiently
from tokenvault_sidecar.adapters.stores import Load
from tokenvault_sidecar.core.errors import StoreUnavailable

_RETRY_AFTER = 1.0
_T = TypeVar("_T")

_CAUSES = {
    "SQLITE_FULL": "its disk or quota is full: free space",
    "SQLITE_BUSY": "another process holds its lock: look for a backup or a database tool at work",
    "SQLITE_LOCKED": "another process holds its lock: look for a backup or a database tool at work",
    "SQLITE_READONLY": "it has become read-only: check the mount and the file's mode",
    "SQLITE_IOERR": "its disk fails to read or write: check the volume and its free space",
    "SQLITE_CANTOPEN": "its file cannot be opened: check that file and folder are in place",
    "SQLITE_CORRUPT": "its file is damaged: stop and restore a backup",
    "SQLITE_NOTADB": "its file is damaged: stop and restore a backup",
}


def unavailable(error: pysqlite3.Error) -> StoreUnavailable:
    """Our error for one of SQLite's. It names no path and holds nothing of the inner text."""
    name = getattr(error, "sqlite_errorname", "no SQLite code")
    cause = _CAUSES.get(name, "it is closed or another program changed it: restart the sidecar")
    return StoreUnavailable(f"the store cannot be used, {cause} ({name})", retry_after=_RETRY_AFTER)


@dataclass(frozen=True, slots=True)
class _Write:
    operation: Callable[[Connection], Any]
    future: asyncio.Future[Any]

    def succeed(self, result: object) -> None:
        self._tell(self.future.set_result, result)

    def fail(self, error: Exception) -> None:
        if isinstance(error, pysqlite3.IntegrityError):  # pysqlite3 does not tell which constraint
            error = ValueError("a row of this key is there already, or a value is missing or of a wrong type")
        elif isinstance(error, pysqlite3.Error):
            error = unavailable(error)
        self._tell(self.future.set_exception, error)

    def _tell(self, setter: Callable[[Any], None], value: object) -> None:
        def settle() -> None:
            if not self.future.done():  # its caller was cancelled
                setter(value)

        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self.future.get_loop().call_soon_threadsafe(settle)


class Writer:
    """Owns the connection. `lock_timeout`: how long to wait for another process's lock, in seconds."""

    def __init__(self, connection: Connection, *, lock_timeout: float) -> None:
        self._connection = connection
        self._lock_timeout = lock_timeout
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._load = Load()
        self._closed = False
        # A daemon: a store that was not closed must not keep the process from ending.
        self._thread = threading.Thread(target=self._serve, name="store-writer", daemon=True)
        self._thread.start()

    async def write(self, operation: Callable[[Connection], _T]) -> _T:
        """Run the operation in a transaction; its result, once that is durable.

        The operation runs in the writer's thread, and again alone where one
        beside it failed: it may do nothing but execute statements. It happens
        even if the caller is cancelled. Raises StoreUnavailable, or ValueError
        for a row whose key is taken.
        """
        if self._closed:
            raise StoreUnavailable("the store is closed: the sidecar is stopping", retry_after=_RETRY_AFTER)
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._queue.put(_Write(operation, future))
        return await future

    @property
    def load(self) -> Load:
        """As of now."""
        return replace(self._load, waiting=self._queue.qsize())

    async def close(self) -> None:
        """Commit what is queued, checkpoint, close the connection and end the thread."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _serve(self) -> None:
        for batch in self._batches():
            self._commit(batch, deadline=time.monotonic() + self._lock_timeout)
        with contextlib.suppress(pysqlite3.Error):  # all is committed: the next opening checkpoints
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._connection.close()

    def _batches(self) -> Iterator[list[_Write]]:
        closing = False
        while not closing:
            batch = [self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get())
            closing = batch[-1] is None
            yield [write for write in batch if write is not None]

    def _commit(self, batch: list[_Write], *, deadline: float) -> None:
        connection = self._connection
        try:
            patiently(lambda: connection.execute("BEGIN IMMEDIATE"), deadline=deadline)
        except Exception as error:
            for write in batch:
                write.fail(error)
            return
        try:
            begin = time.monotonic()
            results = [write.operation(connection) for write in batch]
            connection.execute("COMMIT")
            self._load.seconds += time.monotonic() - begin
            self._load.commits += 1
            self._load.writes += len(batch)
        except Exception as error:
            # The error may have rolled back already.
            with contextlib.suppress(pysqlite3.Error):
                connection.execute("ROLLBACK")
            if len(batch) == 1:
                batch[0].fail(error)
            else:  # one failed, or they are too many for what is left of the disk: each on its own
                for write in batch:
                    self._commit([write], deadline=deadline)
            return
        for write, result in zip(batch, results, strict=True):
            write.succeed(result)
