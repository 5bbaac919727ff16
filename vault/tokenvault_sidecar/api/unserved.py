"""A gRPC server that answers what it does not serve: calls of other methods, and those that come as it stops.

grpc.aio decodes the path of a call of no method of its own in its main loop:
one that is no UTF-8, from any client that has shaken hands, ends the loop and
the server with it (grpcio 1.85.1). Here these calls are answered without a
look at their path.
Calls that wait to be looked at when it stops are cancelled by gRPC, as if
their callers had given them up. Here they are UNAVAILABLE.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final, cast

import grpc
from grpc._cython import cygrpc
from grpc.aio import _server

_UNSERVED: Final = "no such method is served here"
_STOPPING: Final = "the sidecar is stopping: ask again"
_AT_THE_DOOR: Final = 500
"""Calls of one method that wait to be looked at, at most, when the server stops: it takes 10 ms."""


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
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._methods: set[bytes] = set()
        self._refusals: set[asyncio.Task[None]] = set()

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[Any]:
        """The next call of this method, or for None of any other: asked for once, when it starts."""
        if method is not None:
            self._methods.add(method)
            return cast(asyncio.Future[Any], super()._make_request_call_future(method))
        return asyncio.get_running_loop().create_task(self._refuse_others(), name="unserved methods")

    async def shutdown(self, grace: float | None) -> None:
        """Take no more calls, and cancel those that are not over after `grace` seconds."""
        for method in [*self._methods] * _AT_THE_DOOR if self.is_running() else ():
            self._spawn(self._refuse_next(method))
        await asyncio.sleep(0)  # each has asked for a call: those that waited are taken, and who comes now is
        await super().shutdown(grace)

    async def _refuse_next(self, method: bytes) -> None:
        with suppress(cygrpc._RequestCallError):  # none came
            call = await self._request_registered_call(method)
            await _refuse(call, grpc.StatusCode.UNAVAILABLE, _STOPPING)

    async def _refuse_others(self) -> None:
        """Never ends by itself: to the main loop there is no call."""
        while True:
            call = await self._request_call()
            self._spawn(_refuse(call, grpc.StatusCode.UNIMPLEMENTED, _UNSERVED))

    def _spawn(self, refusal: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(refusal)
        self._refusals.add(task)
        task.add_done_callback(self._refusals.discard)


async def _refuse(call: Any, code: grpc.StatusCode, why: str) -> None:
    context = cygrpc._ServicerContext(call, None, None, asyncio.get_running_loop())
    with suppress(grpc.aio.BaseError):  # it always raises: aborted, or gone already
        await context.abort(code, why)
