"""A callback port around the real core, with what an authorization server would send there."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlencode

from tests.core.world import ALICE, World
from tokenvault_sidecar.api.callback import BOUNDS, Callback
from tokenvault_sidecar.api.calls import CallUnderWay
from tokenvault_sidecar.api.pages import Look
from tokenvault_sidecar.core.model import Context, ContextKind
from tokenvault_sidecar.core.policy import Allow, Caller, Policy, Rpc
from tokenvault_sidecar.http_server import HttpServer

PATH = "/callback/{brand}"
BOT = Caller(
    "bot",
    frozenset({"spiffe://test/bot"}),
    (Allow(frozenset({Rpc.START_DELEGATION, Rpc.WATCH_DELEGATION}), None, frozenset(ContextKind)),),
)


@dataclass
class Answer:
    """An HTTP answer: names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: str


@dataclass
class Listening:
    """A port that listens, and the sidecar's core behind it."""

    world: World
    callback: Callback
    server: HttpServer
    recorded: list[tuple[CallUnderWay, str]] = field(default_factory=list)
    policy: Policy = field(default_factory=lambda: Policy([BOT]))

    async def came_back(self, context: Context = ALICE, **changes: str | None) -> dict[str, str]:
        """What the browser brings of a new delegation; `changes` replace some of it, None drops it."""
        response = self.world.server.login(await self.world.challenge(context))
        assert response.code is not None
        sent = {"state": response.state.reveal(), "code": response.code.reveal(), "iss": response.iss}
        return {name: value for name, value in {**sent, **changes}.items() if value is not None}

    async def raw(self, request: bytes, *, context: ssl.SSLContext | None = None) -> bytes:
        """Send these bytes, and read until the end."""
        host, _, port = self.server.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context, limit=1 << 22)
        try:
            writer.write(request)
            async with asyncio.timeout(60):
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def get(
        self, parameters: Mapping[str, str], *, path: str = "/callback/acme", language: str = "en"
    ) -> Answer:
        """As a browser that was redirected here."""
        head = f"GET {path}?{urlencode(parameters)} HTTP/1.1\r\nhost: bots.test\r\n"
        head += f"accept-language: {language}\r\nconnection: close\r\n\r\n"
        return parsed(await self.raw(head.encode()))

    async def post(
        self, parameters: Mapping[str, str], kind: str = "application/x-www-form-urlencoded"
    ) -> Answer:
        """As a browser whose form was submitted here."""
        body = urlencode(parameters)
        head = f"POST /callback/acme HTTP/1.1\r\nhost: bots.test\r\ncontent-type: {kind}\r\n"
        head += f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        return parsed(await self.raw((head + body).encode()))


def parsed(raw: bytes) -> Answer:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("ascii").split("\r\n")
    pairs = [line.partition(": ") for line in lines]
    return Answer(int(first.split()[1]), {name.lower(): value for name, _, value in pairs}, body.decode())


@asynccontextmanager
async def listening(path: str = PATH, look: Look | None = None) -> AsyncIterator[Listening]:
    """A port of the brand "acme" while the block lasts."""
    world = World()
    recorded: list[tuple[CallUnderWay, str]] = []
    callback = Callback(
        world.delegations,
        lambda: port.policy,
        {"acme": look or Look("Acme <Stores>")},
        record=lambda call, outcome: recorded.append((call, outcome)),
    )
    server = HttpServer.listen("127.0.0.1:0", callback.app(path, https=False), BOUNDS)
    port = Listening(world, callback, server, recorded)
    server.start()
    try:
        yield port
    finally:
        await server.stop()
        await world.settle()
