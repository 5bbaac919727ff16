"""What every call passes: known callers only, and errors only as the contract has them."""

from __future__ import annotations  # grpc's handler class is generic in its stubs only

import traceback
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
import structlog
from google.protobuf.message import DecodeError

from tokenvault_sidecar.api.callers import current_caller, identity
from tokenvault_sidecar.api.status import abort
from tokenvault_sidecar.core.errors import InvalidRequest, VaultError
from tokenvault_sidecar.core.policy import Policy

_INTERNAL: Final = "the token vault failed unexpectedly: its log says where"

_log = structlog.get_logger()


class Guard(grpc.aio.ServerInterceptor):
    """Resolves the caller, then runs the servicer and turns what it raises into a status.

    Of all services, not only ours: a method added later is for known callers
    too. The request is parsed only once its caller is known, and in here, so
    that a malformed one fails like any other invalid request.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._guarded: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The method's handler, guarded. None, which gRPC answers with UNIMPLEMENTED, stays None."""
        method = handler_call_details.method
        if method not in self._guarded:
            handler = await continuation(handler_call_details)
            # Streams would pass by what is below: fail closed, as if there were none.
            if handler is None or handler.unary_unary is None:
                return None
            self._guarded[method] = self._guard(method, handler)
        return self._guarded[method]

    def _guard(
        self, method: str, handler: grpc.RpcMethodHandler[Any, Any]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        # The stubs know the synchronous context only, and that no serializer is a valid one.
        call: Any = handler.unary_unary
        parse = handler.request_deserializer or _as_is
        serialize = handler.response_serializer or _as_is

        async def guarded(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            try:
                current_caller.set(self._policy.caller(identity(context.auth_context())))
                try:
                    request = parse(data)
                except DecodeError:
                    raise InvalidRequest("request", "is not a message of this RPC") from None
                return serialize(await call(request, context))
            except VaultError as error:
                await abort(context, error)
            except grpc.aio.BaseError:
                raise  # gRPC's own: the servicer aborted, or the call is over
            except Exception as error:
                _log_defect(method, error)
                await abort(context, VaultError(_INTERNAL))

        return grpc.unary_unary_rpc_method_handler(guarded)


def _as_is(data: bytes) -> bytes:
    return data


def _log_defect(method: str, error: Exception) -> None:
    """Where it happened and of which class. The exception's text and its frames' values may be secrets."""
    caller = current_caller.get(None)
    _log.error(
        "call_failed_unexpectedly",
        method=method,
        caller=caller.name if caller else None,
        errors=_classes(error),
        where=_frames(error),
    )


def _classes(error: BaseException) -> list[str]:
    """The exception's class, then those it came from."""
    names = []
    link: BaseException | None = error
    while link is not None:
        names.append(f"{type(link).__module__}.{type(link).__qualname__}")
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return names


def _frames(error: BaseException) -> list[str]:
    """Its traceback as "module:line function", outermost first."""
    return [
        f"{frame.f_globals.get('__name__')}:{line} {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
