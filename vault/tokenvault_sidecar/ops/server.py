"""The port for those who run the sidecar: `/livez`, `/readyz`, `/metrics`, which change nothing."""

from contextlib import suppress
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tokenvault_sidecar.core.errors import VaultError
from tokenvault_sidecar.http_server import Bounds
from tokenvault_sidecar.ops.gauges import Gauges
from tokenvault_sidecar.ops.readiness import Readiness

_NOT_READY = 503

BOUNDS: Final = Bounds(connections=64, longest_head=8192, longest_stop=1, to_ask=10.0, to_be_done=10.0)
"""What this port takes."""


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
