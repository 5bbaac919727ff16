"""The port for those who run the sidecar: `/livez`, `/readyz`, `/metrics`, which change nothing."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, Router

from tokenvault_sidecar.http_server import Bounds, HttpServer
from tokenvault_sidecar.listening import not_listening

_UNAVAILABLE = 503

BOUNDS: Final = Bounds(connections=64, longest_head=8192, longest_stop=1, to_ask=10.0, to_be_done=10.0)
"""What this port takes."""


def ops_server(address: str, routes: Sequence[Route]) -> HttpServer:
    """Listening, not answering yet. Raises CannotListen."""
    try:
        return HttpServer.listen(address, Router(routes, redirect_slashes=False), BOUNDS)
    except OSError as error:
        raise not_listening("ops.listen", address, error) from None


def probes(
    problems: Callable[[], Awaitable[Mapping[str, str]]],
    silent: Callable[[], Awaitable[Mapping[str, str]]] | None = None,
) -> list[Route]:
    """`/livez` answers while the event loop turns; `/readyz` says what keeps calls from being served.

    That is `problems`, by check. `silent` are those whose loops do not turn, where there are others.
    """

    async def livez(_: Request) -> Response:
        return _verdict("alive", await silent() if silent else {})

    async def readyz(_: Request) -> Response:
        return _verdict("ready", await problems())

    return [Route("/livez", livez), Route("/readyz", readyz)]


def figures(registry: CollectorRegistry, refresh: Callable[[], Awaitable[None]]) -> Route:
    """`/metrics`, in the text format that the scraper prefers, after `refresh`."""

    async def metrics(request: Request) -> Response:
        await refresh()
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"Content-Type": kind})

    return Route("/metrics", metrics)


def _verdict(good: str, problems: Mapping[str, str]) -> Response:
    if not problems:
        return PlainTextResponse(f"{good}\n")
    lines = [f"{name}: {why}\n" for name, why in problems.items()]
    return PlainTextResponse("".join(lines), status_code=_UNAVAILABLE)
