"""A scripted sidecar: answers what it is told to, over real mutual TLS, and keeps what it was asked."""

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import status_pb2  # type: ignore[import-untyped]  # typed, but unmarked
from grpc_status import rpc_status

from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault.v1.token_vault_pb2_grpc import TokenVaultServicer, add_TokenVaultServicer_to_server
from tokenvault_sidecar.api.status import NO_RETRY
from tokenvault_sidecar.devkit import Issued

HANG = object()
"""An answer that never comes: the call is held until the caller gives up."""


@dataclass
class FakeVault(TokenVaultServicer):
    """Gives `answers` in their order: a response, a google.rpc.Status, or HANG."""

    answers: deque[Any] = field(default_factory=deque)
    requests: list[Message] = field(default_factory=list)
    deadlines: list[float] = field(default_factory=list)
    """Seconds each call had left when it arrived."""
    shown: list[list[str]] = field(default_factory=list)
    """Each call's values of the metadata `authorization`."""
    forbids_retries: bool = True
    """As the sidecar does where it says UNAVAILABLE; False: as a proxy before it might."""

    def _answer(self, request: Message, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        self.deadlines.append(context.time_remaining())
        metadata = context.invocation_metadata()
        self.shown.append([str(value) for name, value in metadata if name == "authorization"])
        answer = self.answers.popleft()
        if isinstance(answer, status_pb2.Status):
            status = rpc_status.to_status(answer)
            if self.forbids_retries:
                status = status._replace(trailing_metadata=(*status.trailing_metadata, NO_RETRY))
            context.abort_with_status(status)
        if answer is HANG:
            gone = threading.Event()
            context.add_callback(gone.set)
            gone.wait(60)
        return answer

    def StartDelegation(
        self, request: pb.StartDelegationRequest, context: grpc.ServicerContext
    ) -> pb.StartDelegationResponse:
        return self._answer(request, context)  # type: ignore[no-any-return]  # what the test says

    def CompleteDelegation(
        self, request: pb.CompleteDelegationRequest, context: grpc.ServicerContext
    ) -> pb.CompleteDelegationResponse:
        return self._answer(request, context)  # type: ignore[no-any-return]  # what the test says

    def ConfirmDelegation(
        self, request: pb.ConfirmDelegationRequest, context: grpc.ServicerContext
    ) -> pb.ConfirmDelegationResponse:
        return self._answer(request, context)  # type: ignore[no-any-return]  # what the test says

    def WatchDelegation(
        self, request: pb.WatchDelegationRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchDelegationResponse]:
        """Its answer is a list: of what to send, and perhaps a Status last."""
        for answer in self._answer(request, context):
            if isinstance(answer, status_pb2.Status):
                context.abort_with_status(rpc_status.to_status(answer))
            yield answer

    def GetToken(self, request: pb.GetTokenRequest, context: grpc.ServicerContext) -> pb.GetTokenResponse:
        return self._answer(request, context)  # type: ignore[no-any-return]  # what the test says

    def Invalidate(
        self, request: pb.InvalidateRequest, context: grpc.ServicerContext
    ) -> pb.InvalidateResponse:
        return self._answer(request, context)  # type: ignore[no-any-return]  # what the test says


@contextmanager
def serve(vault: FakeVault, address: str, *, own: Issued, trusts: bytes) -> Iterator[str]:
    """Serve at `address` ("127.0.0.1:0" or "unix:/path"); yields the address to call."""
    credentials = grpc.ssl_server_credentials(
        [(own.private_key_pem, own.certificate_pem)], root_certificates=trusts, require_client_auth=True
    )
    with ThreadPoolExecutor(max_workers=4) as threads:
        server = grpc.server(threads)
        add_TokenVaultServicer_to_server(vault, server)
        port = server.add_secure_port(address, credentials)
        server.start()
        try:
            yield address if address.startswith("unix:") else f"127.0.0.1:{port}"
        finally:
            server.stop(grace=None).wait(10)
