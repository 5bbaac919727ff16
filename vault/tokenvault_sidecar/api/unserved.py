"""A gRPC server that a call of no method of its own cannot bring down.

grpc.aio decodes the path of such a call in its main loop: one that is no
UTF-8, from any client that has shaken hands, ends the loop and the server with
it (grpcio 1.85.1). Here these calls are answered without a look at their path.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, cast

import grpc
from grpc._cython import cygrpc
from grpc.aio import _server

_UNSERVED: Final = "no such method is served here"


def new_server(
    interceptors: Sequence[grpc.aio.ServerInterceptor], options: Sequence[tuple[str, int]]
) -> grpc.aio.Server:
    """A server of registered methods alone, all others UNIMPLEMENTED; to be made with the loop running."""
    return cast(grpc.aio.Server, _Server(interceptors, options))


class _Server(_server.Server):
    def __init__(
        self, interceptors: Sequence[grpc.aio.ServerInterceptor], options: Sequence[tuple[str, int]]
    ) -> None:
        # As in the class it derives from, but with a core of ours. Not used are: a thread pool, handlers of
        # methods that are not registered, and a limit of calls at once.
        self._loop = cygrpc.get_working_loop()
        self._server = _Core(self._loop, None, (), tuple(interceptors), tuple(options), None)


class _Core(cygrpc.AioServer):  # type: ignore[misc]  # compiled, and without stubs
    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[Any]:
        """The next call of this method, or for None of any other: asked for once, when it starts."""
        if method is not None:
            return cast(asyncio.Future[Any], super()._make_request_call_future(method))
        self._refusals: set[asyncio.Task[None]] = set()
        return asyncio.get_running_loop().create_task(self._refuse_others(), name="unserved methods")

    async def _refuse_others(self) -> None:
        """Never ends by itself: to the main loop there is no call."""
        while True:
            call = await self._request_call()
            refusal = asyncio.get_running_loop().create_task(_refuse(call))
            self._refusals.add(refusal)
            refusal.add_done_callback(self._refusals.discard)


async def _refuse(call: Any) -> None:
    context = cygrpc._ServicerContext(call, None, None, asyncio.get_running_loop())
    with suppress(grpc.aio.BaseError):  # it always raises: aborted, or gone already
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, _UNSERVED)
