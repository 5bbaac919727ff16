"""A way to the database that loses things."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Self


class LossyProxy:
    """Between a store and its server: breaks a connection, and an answer is lost, or a statement late."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._lose: bytes | None = None
        self._then: Callable[[], object] = lambda: None
        self._late: tuple[bytes, bytes] | None = None
        self._held: tuple[bytes, Callable[[], Awaitable[object]]] | None = None
        self.lost = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def lose(self, statement: bytes, *, then: Callable[[], object] = lambda: None) -> None:
        """The next one sent that holds this is done, but its answer never comes; `then` comes first."""
        self._lose, self._then = statement, then

    def delay(self, statement: bytes, *, until: bytes) -> None:
        """The next one sent that holds this comes to the server just before the next that holds `until`."""
        self._late = statement, until

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        back, there = await asyncio.open_connection("127.0.0.1", self._server_port)
        losing = asyncio.Event()
        ends = [writer, there]

        async def outwards() -> None:
            while data := await reader.read(65536):
                if self._lose is not None and self._lose in data:
                    self._lose = None
                    losing.set()
                if self._held is not None and self._held[0] in data:
                    (_, deliver), self._held = self._held, None
                    await deliver()
                if self._late is not None and self._late[0] in data:
                    (_, until), self._late = self._late, None
                    self._held = until, partial(_done, data, back, there)
                    ends.remove(there)
                    self.lost += 1
                    return
                there.write(data)

        async def inwards() -> None:
            while data := await back.read(65536):
                if losing.is_set():
                    self.lost += 1
                    await asyncio.to_thread(self._then)
                    return
                writer.write(data)

        ways = [asyncio.create_task(outwards()), asyncio.create_task(inwards())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*ways, return_exceptions=True)
            for end in ends:
                end.close()
            self._tasks.discard(task)


async def _done(data: bytes, back: asyncio.StreamReader, there: asyncio.StreamWriter) -> None:
    """Have the server do what was held back."""
    there.write(data)
    assert await back.read(65536)
    there.close()
