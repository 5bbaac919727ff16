"""What every call passes: known callers within their limits only, and errors as the contract has them."""

from __future__ import annotations  # grpc's handler class is generic in its stubs only

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Never, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError

from tokenvault_sidecar.api.call_log import log_failure
from tokenvault_sidecar.api.callers import identity
from tokenvault_sidecar.api.calls import REQUEST_ID, CallUnderWay, Observe, Record, current_call
from tokenvault_sidecar.api.defects import log_defect
from tokenvault_sidecar.api.status import abort
from tokenvault_sidecar.core.errors import InvalidRequest, RateLimited, StoreUnavailable, VaultError
from tokenvault_sidecar.core.limits import Limits, Meter
from tokenvault_sidecar.core.policy import Call, Caller, Policy, Rpc
from tokenvault_sidecar.core.ports import Bearer
from tokenvault_sidecar.core.tracing import BeginCall, current_span

MAX_METADATA: Final = 16 * 1024
"""Bytes. gRPC itself lets 16 MiB pass until its client acknowledges the limit (RFC 9113 section 6.5.3)."""

_STOPPING: Final = "the sidecar is stopping: ask again"
_INTERNAL: Final = "the token vault failed unexpectedly: its log says where"
_OK: Final = "OK"
_HELD_BACK: Final = 0.1
"""Seconds until a caller over its limit is told so: who asks again at once slows itself down, not others."""
_CANCELLED: Final = grpc.StatusCode.CANCELLED.name  # the caller went away, or its deadline was over
_UNIMPLEMENTED: Final = grpc.StatusCode.UNIMPLEMENTED
_SERVICES: Final = {
    "grpc.health.v1.Health": Rpc.HEALTH,
    "grpc.reflection.v1alpha.ServerReflection": Rpc.REFLECTION,
}

_Context = grpc.aio.ServicerContext[Any, Any]
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in its stubs only


@dataclass(frozen=True, slots=True)
class Admission:
    """Who is let in, and how far: replaced as a whole when the configuration changes.

    `limits` and `bearers` are by caller name; who is in none has the default
    limits, and needs no bearer token.
    """

    policy: Policy
    limits: Mapping[str, Limits] = field(default_factory=dict)
    bearers: Mapping[str, Bearer] = field(default_factory=dict)


class Guard(grpc.aio.ServerInterceptor):
    """Admits the caller, then runs the servicer and turns what it raises into a status.

    Of all services, not only ours: health and reflection are for those whose
    policy says so. The request is read only once its caller is admitted and
    the call accounted for, and parsed in here, so that one that is malformed or
    never comes fails like any other invalid request.
    `longest` is the longest a call may take, in seconds, whatever its deadline.
    """

    def __init__(
        self,
        admission: Admission,
        *,
        record: Record | None = None,
        observe: Observe | None = None,
        trace: BeginCall | None = None,
        longest: float = 60.0,
    ) -> None:
        self.admission = admission
        self._record = record
        self._observe = observe
        self._trace = trace
        self.longest = longest
        self._meters: dict[str, Meter] = {}
        self._guarded: dict[str, _Handler] = {}
        self._calls: set[asyncio.Task[Any]] = set()
        self._streams: set[asyncio.Task[Any]] = set()
        self._held: asyncio.Event | None = None

    def admit(self, admission: Admission) -> None:
        """Go by this from the next call on."""
        self.admission = admission
        self._meters = {}

    def hold(self) -> None:
        """Have calls begin and end only once they are let go: who waits for an answer sends nothing else."""
        self._held = asyncio.Event()

    def let_go(self) -> None:
        """Serve and answer those that were held, and hold no more."""
        if self._held is not None:
            self._held.set()

    def end_streams(self) -> None:
        """End those that would not by themselves, as health's Watch, with UNAVAILABLE."""
        _end(self._streams)

    def end_calls(self) -> None:
        """End all that are under way, with UNAVAILABLE."""
        _end(self._calls)
        _end(self._streams)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """The method's handler, guarded. None, which gRPC answers with UNIMPLEMENTED, stays None."""
        metadata = handler_call_details.invocation_metadata or ()
        if sum(len(key) + len(value) for key, value in metadata) > MAX_METADATA:
            return _OVERSIZED
        method = handler_call_details.method
        if method not in self._guarded:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            self._guarded[method] = self._guard(method, handler)
        return self._guarded[method]

    def _guard(self, method: str, handler: _Handler) -> _Handler:
        _, service, name = method.split("/")
        # The stubs know the synchronous context only, and that no serializer is a valid one.
        behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_stream
        parse = _parser(handler.request_deserializer or _as_is)
        serialize = handler.response_serializer or _as_is

        async def request_of(context: _Context) -> Any:
            data = await context.read()
            if data is grpc.aio.EOF:
                raise InvalidRequest("request", "is missing")
            return parse(data)

        async def unary(_: object, context: _Context) -> bytes:
            call, task = CallUnderWay(name), asyncio.current_task()
            assert task is not None
            self._calls.add(task)
            try:
                await self._pass()
                meter = await self._enter(call, service, context)
                try:
                    left = context.time_remaining()
                    if left is not None and left <= self.longest:
                        answer = await behaviour(await request_of(context), context)
                    else:
                        async with asyncio.timeout(self.longest):
                            answer = await behaviour(await request_of(context), context)
                finally:
                    meter.leave()
                try:
                    await self._pass()
                    if self._record is not None:
                        self._record(call, _OK)
                    data = serialize(answer)
                except BaseException:
                    if call.not_heard is not None:
                        call.not_heard()
                    raise
                self._tell(call, _OK)
                return data
            except asyncio.CancelledError:
                if task not in self._calls:  # we have ended it
                    await self._fail(method, call, context, StoreUnavailable(_STOPPING, retry_after=1.0))
                self._note(call, _CANCELLED)
                raise
            except Exception as error:
                self._calls.discard(task)  # it ends with this
                await self._fail(method, call, context, error)
            finally:
                self._calls.discard(task)

        async def stream(parts: Any, context: _Context) -> None:
            call, task = CallUnderWay(name), asyncio.current_task()
            assert task is not None
            self._streams.add(task)
            try:
                meter = await self._enter(call, service, context)
                try:
                    one = handler.unary_stream is not None
                    request = await request_of(context) if one else (parse(part) async for part in parts)
                    answers = behaviour(request, context)
                    if isinstance(answers, AsyncIterator):
                        async for answer in answers:
                            await context.write(answer)
                    else:  # it writes by itself
                        await answers
                finally:
                    meter.leave()
                if self._record is not None:
                    self._record(call, _OK)
                self._tell(call, _OK)
            except asyncio.CancelledError:
                if task not in self._streams:  # we have ended it
                    await self._fail(method, call, context, StoreUnavailable(_STOPPING, retry_after=1.0))
                self._note(call, _CANCELLED)
                raise
            except Exception as error:
                self._streams.discard(task)  # it ends with this
                await self._fail(method, call, context, error)
            finally:
                self._streams.discard(task)

        if handler.unary_unary:
            return grpc.stream_unary_rpc_method_handler(unary)
        return grpc.stream_stream_rpc_method_handler(stream, None, handler.response_serializer)

    async def _pass(self) -> None:
        if self._held is not None:
            await self._held.wait()

    async def _enter(self, call: CallUnderWay, service: str, context: _Context) -> Meter:
        """Admit the caller, and account for the call. Raises VaultError; else `leave` the meter."""
        admission = self.admission
        call.metadata = context.invocation_metadata
        current_call.set(call)
        if self._trace is not None:
            call.span = self._trace(call.rpc, call.metadata() or ())
            current_span.set(call.span)
        peer = context.auth_context()
        call.identity = identity(peer)
        caller = call.caller = admission.policy.caller(call.identity)
        meter = self._meters.get(caller.name) or self._meter(caller)
        meter.enter(time.monotonic())
        try:
            bearer = admission.bearers.get(caller.name)
            if bearer is not None:
                shown = [
                    value for key, value in context.invocation_metadata() or () if key == "authorization"
                ]
                await bearer.verify(shown, next(iter(peer["x509_pem_cert"])))
            if service in _SERVICES:
                admission.policy.check(caller, Call(_SERVICES[service]))
        except BaseException:
            meter.leave()
            raise
        return meter

    def _meter(self, caller: Caller) -> Meter:
        limits = self.admission.limits.get(caller.name, Limits())
        meter = self._meters[caller.name] = Meter(caller.name, limits, now=time.monotonic())
        return meter

    async def _fail(self, method: str, call: CallUnderWay, context: _Context, error: Exception) -> Never:
        """Note the failure, and end the call with its status."""
        if isinstance(error, grpc.aio.BaseError):  # gRPC's own: the servicer aborted, or the call is over
            aborted = [code.name for code in grpc.StatusCode if context.code() in (code, code.value[0])]
            self._note(call, aborted[0] if isinstance(error, grpc.aio.AbortError) and aborted else _CANCELLED)
            raise error
        if isinstance(error, TimeoutError):
            self._note(call, grpc.StatusCode.DEADLINE_EXCEEDED.name)
            await context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"no call may take longer than {self.longest:g} s"
            )
        if isinstance(error, NotImplementedError) and context.code() is _UNIMPLEMENTED:
            self._note(call, _UNIMPLEMENTED.name)  # by a generated base class: the servicer lacks this RPC
            await context.abort(_UNIMPLEMENTED, "this method is not served here")
        if not isinstance(error, VaultError):
            log_defect(method, call, error)
            error = VaultError(_INTERNAL)
        self._note(call, error.reason.value)
        if isinstance(error, RateLimited):
            await asyncio.sleep(_HELD_BACK)
        await self._pass()
        await abort(context, error, metadata=((REQUEST_ID, call.request_id),), detail=call.detail)

    def _tell(self, call: CallUnderWay, outcome: str) -> None:
        call.end_span(outcome)
        if self._observe is not None:
            name = call.caller.name if call.caller else None
            self._observe(call.rpc, name, outcome, time.perf_counter() - call.began)

    def _note(self, call: CallUnderWay, outcome: str) -> None:
        """A refusal releases nothing: it is told even where it cannot be recorded."""
        self._tell(call, outcome)
        log_failure(call, outcome)
        if self._record is None:
            return
        try:
            self._record(call, outcome)
        except VaultError as unrecorded:
            structlog.get_logger().error("call_unrecorded", outcome=outcome, problem=unrecorded.message)


def _end(calls: set[asyncio.Task[Any]]) -> None:
    while calls:
        calls.pop().cancel()


def _parser(deserializer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def parse(data: bytes) -> Any:
        try:
            return deserializer(data)
        except DecodeError:
            raise InvalidRequest("request", "is not a message of this RPC") from None

    return parse


async def _refuse_oversized(_: object, context: _Context) -> None:
    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {MAX_METADATA} bytes of metadata")


_OVERSIZED: Final[_Handler] = grpc.stream_unary_rpc_method_handler(_refuse_oversized)


def _as_is(data: bytes) -> bytes:
    return data
