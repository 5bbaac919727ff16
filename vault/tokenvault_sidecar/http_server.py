"""HTTP beside the RPCs, in the running loop: bounded in connections, in bytes, and in time."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tokenvault_sidecar.listening import listen


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of it one port takes: bytes, and seconds.

    `to_ask` is from the connection to a whole request head, `to_be_done` how
    long a connection lasts, whatever comes.
    """

    connections: int
    longest_head: int
    longest_stop: int
    to_ask: float
    to_be_done: float


class HttpServer:
    """One address. Made by `listen`; `start` and `stop` it."""

    def __init__(
        self, listening: socket.socket, app: Any, bounds: Bounds, tls: tuple[Path, Path] | None
    ) -> None:
        self._socket = listening
        self._tls = tls
        self._config = uvicorn.Config(
            app,
            http=partial(_Impatient, bounds),  # type: ignore[arg-type]  # which is called like the class
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # what strangers send is not worth a line
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            limit_concurrency=bounds.connections,
            h11_max_incomplete_event_size=bounds.longest_head,
            timeout_graceful_shutdown=bounds.longest_stop,
            ssl_certfile=tls and str(tls[0]),
            ssl_keyfile=tls and str(tls[1]),
        )
        self._config.load()
        self._server = _Server(self._config)
        self._serving: asyncio.Task[None] | None = None

    @classmethod
    def listen(
        cls,
        address: str,
        app: Any,
        bounds: Bounds,
        *,
        tls: tuple[Path, Path] | None = None,
        listening: socket.socket | None = None,
    ) -> "HttpServer":
        """Listen on "host:port", port 0 for any free one; `tls` are certificate chain and key.

        `listening` is a socket that does so already. Raises OSError, of which
        ssl.SSLError is one.
        """
        listening = listening or listen(address)
        try:
            return cls(listening, app, bounds, tls)
        except BaseException:
            listening.close()
            raise

    @property
    def address(self) -> str:
        """Where it listens, with the port it got."""
        host, port, *_ = self._socket.getsockname()
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def start(self) -> None:
        """Answer from now on."""
        work = self._server.serve(sockets=[self._socket])
        self._serving = asyncio.get_running_loop().create_task(work, name="http")

    def reload_certificate(self) -> None:
        """Show what the files hold now from the next handshake on. Raises OSError, with the old in force."""
        if self._tls is not None and self._config.ssl is not None:
            self._config.ssl.load_cert_chain(*self._tls)

    async def stop(self) -> None:
        """Answer no more, if it ever did; what is under way gets a few seconds."""
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving
        self._socket.close()


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the sidecar's own."""
        yield


class _Impatient(H11Protocol):
    """Ends by itself: uvicorn waits for ever for a first request, and who asks nothing kept its place."""

    def __init__(self, bounds: Bounds, **settings: Any) -> None:
        super().__init__(**settings)
        self._bounds = bounds

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._timers = (
            self.loop.call_later(self._bounds.to_ask, self._end_unless_asked),
            self.loop.call_later(self._bounds.to_be_done, transport.abort),
        )

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in self._timers:
            timer.cancel()
        super().connection_lost(exc)

    def _end_unless_asked(self) -> None:
        if self.cycle is None:
            self.transport.abort()
