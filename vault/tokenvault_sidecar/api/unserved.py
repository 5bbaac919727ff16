"""A gRPC server that answers what it does not serve: calls of other methods, and those that come as it stops.

grpc.aio decodes the path of a call of no method of its own in its main loop:
one that is no UTF-8, from any client that has shaken hands, ends the loop and
the server with it (grpcio 1.85.1). Here these calls are answered without a
look at their path.
Calls that wait to be looked at when it stops, and the last one of each method
that its main loop asked for, are cancelled by gRPC, as if their callers had
given them up. Here they are UNAVAILABLE.
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
_TURNS: Final = 3
"""Of the loop, until the main loop has looked at each call that was handed to it: it takes two."""
_AT_THE_DOOR: Final = 500
"""Calls of one method that wait to be looked at, at most, when the server stops: it takes 20 ms."""
_UNCALLED: Final = 20
"""The same of a method that nobody has called so far: most are not, and to ask is what a stop costs."""


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
        self._called: set[bytes] = set()
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[Any]:
        """The next call of this method, or for None of any other: asked for once, when it starts."""
        if method is None:
            return asyncio.get_running_loop().create_task(self._refuse_others(), name="unserved methods")
        self._methods.add(method)
        next_call: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._spawn(self._hand_over(method, next_call))
        return next_call

    async def shutdown(self, grace: float | None) -> None:
        """Take no more calls, and cancel those that are not over after `grace` seconds."""
        if self.is_running():
            loop = asyncio.get_running_loop()
            self._stopping = True
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            for method in self._methods:
                for _ in range(_AT_THE_DOOR if method in self._called else _UNCALLED):
                    self._spawn(self._hand_over(method, loop.create_future()))
            await asyncio.sleep(0)  # each has asked for a call: who waited has one, and so has who comes now
        await super().shutdown(grace)

    async def _hand_over(self, method: bytes, next_call: asyncio.Future[Any]) -> None:
        """To the main loop while it is sure to look; once it stops, calls are refused until no more come."""
        try:
            call = await self._ask(method)
            while self._stopping:
                self._spawn(_refuse(call, grpc.StatusCode.UNAVAILABLE, _STOPPING))
                call = await self._ask(method)
        except Exception as none:  # what it means is for the main loop to tell
            if not next_call.done():
                next_call.set_exception(none)
                next_call.exception()  # nobody may look any more
        else:
            next_call.set_result(call)

    async def _ask(self, method: bytes) -> Any:
        if not self.is_running():  # what is below may be gone
            raise cygrpc._RequestCallError
        call = await self._request_registered_call(method)
        self._called.add(method)
        return call

    async def _refuse_others(self) -> None:
        """Never ends by itself: to the main loop there is no call."""
        while True:
            call = await self._request_call()
            self._spawn(_refuse(call, grpc.StatusCode.UNIMPLEMENTED, _UNSERVED))

    def _spawn(self, refusal: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(refusal)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _refuse(call: Any, code: grpc.StatusCode, why: str) -> None:
    context = cygrpc._ServicerContext(call, None, None, asyncio.get_running_loop())
    with suppress(grpc.aio.BaseError):  # it always raises: aborted, or gone already
        await context.abort(code, why)
