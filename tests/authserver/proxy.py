"""A proxy between a client and the authorization server that breaks what it is told to break."""

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

Wait = float | asyncio.Event
"""Seconds, or what to wait for: with an event the test says when, not the machine's speed."""

Where = str | Callable[[str], bool]
"""A request's path without query, or a predicate on it."""


def _unchanged(answer: bytes) -> bytes:
    return answer


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request.

    `before`: waited for before forwarding. `forward`: whether it reaches the
    server. `after`: waited for before answering. `answer`: makes what the
    client gets from the server's raw answer (empty where nothing was
    forwarded); None resets the connection. `pace`: seconds between the
    answer's bytes.
    """

    name: str
    before: Wait = 0.0
    forward: bool = True
    after: Wait = 0.0
    answer: Callable[[bytes], bytes] | None = _unchanged
    pace: float = 0.0


def _http(status: int, body: bytes, kind: str, *headers: str) -> bytes:
    lines = (
        f"HTTP/1.1 {status} Said-Proxy",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        *headers,
    )
    return "\r\n".join((*lines, "Connection: close", "", "")).encode() + body


def _cut_off(answer: bytes) -> bytes:
    head, _, body = answer.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n" + body[: len(body) // 2]


def _half(answer: bytes) -> bytes:
    body = answer.partition(b"\r\n\r\n")[2]
    return _http(200, body[: len(body) // 2], "application/json")


PASS = Fault("pass")
RESET_BEFORE = Fault("reset before", forward=False, answer=None)
"""The request never reaches the server."""
RESET_AFTER = Fault("reset after", answer=None)
"""The server acts; its answer is lost."""
TRUNCATED = Fault("truncated", answer=_cut_off)
"""The server acts; the connection ends in the middle of the body."""
HALF_JSON = Fault("half json", answer=_half)
"""The server acts; a complete 200 brings the first half of its body."""
HTML = Fault(
    "html", answer=lambda _: _http(200, b"<html><body>Sign in to the Wi-Fi</body></html>", "text/html")
)
"""The server acts; the client gets a 200 with a page."""


def delayed(wait: Wait) -> Fault:
    """The request reaches the server only after `wait`."""
    return Fault("delayed", before=wait)


def held(wait: Wait) -> Fault:
    """The server acts; the client has the answer only after `wait`."""
    return Fault("held", after=wait)


def slow_loris(pace: float) -> Fault:
    """The server acts; the answer comes byte by byte, `pace` seconds apart."""
    return Fault("slow loris", pace=pace)


def status(code: int, *, retry_after: int | str | None = None) -> Fault:
    """Not forwarded; answered with this status, and Retry-After (seconds, or an HTTP date)."""
    headers = () if retry_after is None else (f"Retry-After: {retry_after}",)
    answer = _http(code, b'{"error":"temporarily_unavailable"}', "application/json", *headers)
    return Fault(f"status {code}", forward=False, answer=lambda _: answer)


@dataclass(slots=True)
class Seen:
    """A request as the proxy saw it. `answered`: the server has acted, and the proxy has its answer."""

    method: str
    path: str
    fault: str
    answered: bool = False


class FaultProxy:
    """Stands at `url` while the `async with` block lasts, one request a connection.

    `forward_to` says where the server is; start the server with
    `issuer=proxy.url`, since clients compare the issuer with where they asked.
    """

    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self._changed = asyncio.Condition()
        self._port = 0
        self._upstream: int | None = None
        self._standing: list[tuple[Where, Fault]] = []
        self._queued: deque[tuple[Where, Fault]] = deque()
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=1024)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def forward_to(self, port: int) -> None:
        """The server's port on loopback."""
        self._upstream = port

    def set(self, fault: Fault, *, on: Where = "/token") -> None:
        """From now on, every request there meets this fault."""
        self._standing.append((on, fault))

    def queue(self, *faults: Fault, on: Where = "/token") -> None:
        """The next requests there meet these, one each; then what is set counts again."""
        self._queued.extend((on, fault) for fault in faults)

    def clear(self) -> None:
        """No faults any more."""
        self._standing.clear()
        self._queued.clear()

    def count(self, on: Where = "/token") -> int:
        """How many requests came there, forwarded or not."""
        return sum(_matches(on, seen.path) for seen in self.requests)

    def acted(self, on: Where = "/token") -> int:
        """How many of these the server has answered."""
        return sum(_matches(on, seen.path) and seen.answered for seen in self.requests)

    async def until_count(self, count: int, on: Where = "/token", *, seconds: float = 30.0) -> None:
        """Wait until `count` requests came there in all. Raises TimeoutError."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(lambda: self.count(on) >= count)

    async def until_acted(self, count: int, on: Where = "/token", *, seconds: float = 30.0) -> None:
        """Wait until the server has answered `count` of these in all. Raises TimeoutError."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(lambda: self.acted(on) >= count)

    def _fault_for(self, path: str) -> Fault:
        for queued in self._queued:
            if _matches(queued[0], path):
                self._queued.remove(queued)
                return queued[1]
        return next((fault for on, fault in reversed(self._standing) if _matches(on, path)), PASS)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        # Either side may go away at any time: that is what faults are about.
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            try:
                await self._serve(reader, writer)
            finally:
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await _read_request(reader)
        method, target = request.split(b" ", 2)[:2]
        path = target.partition(b"?")[0].decode()
        fault = self._fault_for(path)
        seen = Seen(method.decode(), path, fault.name)
        self.requests.append(seen)
        await self._tell()
        await _wait(fault.before)
        answer = b""
        if fault.forward:
            answer = await self._forward(request)
            seen.answered = True
            await self._tell()
        await _wait(fault.after)
        if fault.answer is None:
            _reset(writer)
        else:
            await _send(writer, fault.answer(answer), fault.pace)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _forward(self, request: bytes) -> bytes:
        assert self._upstream is not None, "forward_to() says where the server is"
        reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        try:
            writer.write(_closing(request))
            return await reader.read()
        finally:
            writer.close()


def _matches(on: Where, path: str) -> bool:
    return path == on if isinstance(on, str) else on(path)


async def _wait(wait: Wait) -> None:
    if isinstance(wait, asyncio.Event):
        await wait.wait()
    else:
        await asyncio.sleep(wait)


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return head + await reader.readexactly(length)


def _closing(request: bytes) -> bytes:
    """The request with `Connection: close`, so that the answer ends where the connection does."""
    head, _, body = request.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*lines, b"Connection: close", b"", b""]) + body


async def _send(writer: asyncio.StreamWriter, answer: bytes, pace: float) -> None:
    pieces = (answer[i : i + 1] for i in range(len(answer))) if pace else (answer,)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(pace)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a TCP RST instead of a FIN."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
