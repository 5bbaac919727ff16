"""The port for those who run the sidecar: `/livez`, `/readyz`, `/metrics`, which change nothing."""

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, Router
from uvicorn.protocols.http.h11_impl import H11Protocol

from tokenvault_sidecar.core.errors import VaultError
from tokenvault_sidecar.ops.gauges import Gauges
from tokenvault_sidecar.ops.readiness import Readiness

_NOT_READY = 503
_CONNECTIONS = 64
_LONGEST_REQUEST = 8192
_LONGEST_STOP = 1  # seconds
_LONGEST_CONNECTION = 10.0  # seconds


class OpsServer:
    """Plain HTTP on one address, in the running loop. Made by `listen`; `start` and `stop` it."""

    def __init__(self, listening: socket.socket, routes: Sequence[Route]) -> None:
        self._socket = listening
        config = uvicorn.Config(
            Router(routes, redirect_slashes=False),
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # what strangers send is not worth a line
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS,
            h11_max_incomplete_event_size=_LONGEST_REQUEST,
            timeout_graceful_shutdown=_LONGEST_STOP,
        )
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None

    @classmethod
    def listen(cls, address: str, routes: Sequence[Route]) -> "OpsServer":
        """Listen on "host:port", port 0 for any free one. Raises OSError."""
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return cls(socket.create_server((host, int(port)), family=family), routes)

    @property
    def address(self) -> str:
        """Where it listens, with the port it got."""
        host, port, *_ = self._socket.getsockname()
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def start(self) -> None:
        """Answer from now on."""
        work = self._server.serve(sockets=[self._socket])
        self._serving = asyncio.get_running_loop().create_task(work, name="ops")

    async def stop(self) -> None:
        """Answer no more."""
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving
        self._socket.close()


class _Connection(H11Protocol):
    """Ends by itself: uvicorn waits for ever for a first request, and who asks nothing kept its place."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as there
        super().connection_made(transport)
        self._ending = self.loop.call_later(_LONGEST_CONNECTION, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ending.cancel()
        super().connection_lost(exc)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the sidecar's own."""
        yield


def probes(readiness: Readiness) -> list[Route]:
    """`/livez` answers while the event loop turns; `/readyz` says what keeps calls from being served."""

    async def livez(_: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def readyz(_: Request) -> Response:
        problems = await readiness.problems()
        if not problems:
            return PlainTextResponse("ready\n")
        lines = [f"{name}: {why}\n" for name, why in problems.items()]
        return PlainTextResponse("".join(lines), status_code=_NOT_READY)

    return [Route("/livez", livez), Route("/readyz", readyz)]


def figures(registry: CollectorRegistry, gauges: Gauges) -> Route:
    """`/metrics`, in the text format that the scraper prefers. A store that is away leaves the others."""

    async def metrics(request: Request) -> Response:
        with suppress(VaultError):
            await gauges.refresh()
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"Content-Type": kind})

    return Route("/metrics", metrics)
