"""A real server with real TLS around the fake use-cases, and callers of it."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # typed, but unmarked
from grpc_status import rpc_status

from tests.fakes.usecases import FakeConsent, FakeDelegations, FakeTokens
from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault.v1.token_vault_pb2_grpc import TokenVaultStub
from tokenvault_sidecar.api.calls import Record
from tokenvault_sidecar.api.guard import Admission, Guard
from tokenvault_sidecar.api.server import HealthServicer, build_server
from tokenvault_sidecar.api.servicer import Servicer
from tokenvault_sidecar.api.tls import TlsFiles
from tokenvault_sidecar.core.model import ContextKind
from tokenvault_sidecar.core.policy import Allow, Caller, Policy, Rpc
from tokenvault_sidecar.devkit import DevelopmentCA, Issued

BOT = "spiffe://platform.example/bot"
SERVICE = "orders.acme.example"
KIOSK = "spiffe://platform.example/kiosk"
DEADLINE = 20.0

CALLERS = (
    Caller(
        "bot",
        frozenset({BOT}),
        (
            Allow(
                rpcs=frozenset(Rpc),
                brands=frozenset({"acme"}),
                contexts=frozenset(ContextKind),
                id_token=True,
                keeps_session_alive=True,
            ),
        ),
    ),
    Caller(
        "orders",
        frozenset({SERVICE}),
        (
            Allow(
                rpcs=frozenset({Rpc.GET_TOKEN}),
                brands=frozenset({"acme"}),
                contexts=frozenset({ContextKind.CONSUMER}),
                scopes=frozenset({"openid", "orders"}),
            ),
        ),
    ),
    Caller(
        "kiosk",
        frozenset({KIOSK}),
        (
            Allow(
                rpcs=frozenset(Rpc),
                brands=frozenset({"acme"}),
                contexts=frozenset({ContextKind.CONVERSATION}),
            ),
        ),
    ),
)


def replace(path: Path, content: bytes) -> None:
    """As those who rotate do it: a new file takes the old one's name."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


@dataclass
class Pki:
    """The server's files, and client certificates of the CA it trusts."""

    ca: DevelopmentCA
    files: TlsFiles
    bot: Issued = field(init=False)
    orders: Issued = field(init=False)
    kiosk: Issued = field(init=False)
    stranger: Issued = field(init=False)

    def __post_init__(self) -> None:
        self.bot = self.ca.issue(name="bot", uris=[BOT])
        self.orders = self.ca.issue(name="orders", dns=[SERVICE])
        self.kiosk = self.ca.issue(name="kiosk", uris=[KIOSK])
        self.stranger = self.ca.issue(name="stranger", uris=["spiffe://platform.example/stranger"])

    @classmethod
    def create(cls, folder: Path) -> "Pki":
        pki = cls(
            DevelopmentCA.create("test CA"),
            TlsFiles(folder / "server.pem", folder / "server-key.pem", folder / "client-ca.pem"),
        )
        replace(pki.files.client_ca, pki.ca.certificate_pem)
        pki.renew_server()
        return pki

    def renew_server(self, ca: DevelopmentCA | None = None) -> None:
        """A new server certificate in place of the one there is."""
        server = (ca or self.ca).issue(name="vault", dns=["localhost"], ips=["127.0.0.1"])
        replace(self.files.certificate, server.certificate_pem)
        replace(self.files.private_key, server.private_key_pem)


@dataclass
class Running:
    """A started server and its use-cases."""

    pki: Pki
    tokens: FakeTokens
    delegations: FakeDelegations
    consent: FakeConsent
    addresses: tuple[str, ...] = ()

    @asynccontextmanager
    async def channel(
        self,
        client: Issued | None,
        *,
        address: str | None = None,
        server_ca: bytes | None = None,
    ) -> AsyncIterator[grpc.aio.Channel]:
        """A connection of its own with this client certificate, None for none."""
        credentials = grpc.ssl_channel_credentials(
            server_ca or self.pki.ca.certificate_pem,
            client.private_key_pem if client else None,
            client.certificate_pem if client else None,
        )
        options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
        target = address or self.addresses[0]
        async with grpc.aio.secure_channel(target, credentials, options) as channel:
            yield channel

    async def raw(self, client: Issued | None, method: str, data: bytes, **where: Any) -> Any:
        """One call of any method, with these bytes as its request."""
        async with self.channel(client, **where) as channel:
            call: Any = channel.unary_unary(method)  # untyped without serializers
            return await call(data, timeout=DEADLINE)

    async def call(self, client: Issued | None, rpc: str, request: Any, **where: Any) -> Any:
        """One call on a connection of its own; of a stream all that it answers."""
        async with self.channel(client, **where) as channel:
            call = getattr(TokenVaultStub(channel), rpc)(request, timeout=DEADLINE)
            if isinstance(call, grpc.aio.UnaryStreamCall):
                return [answer async for answer in call]
            return await call


@asynccontextmanager
async def serving(
    pki: Pki,
    *,
    listen: Sequence[str] = ("127.0.0.1:0",),
    callers: Iterable[Caller] = CALLERS,
    max_connection_age: float = 3600.0,
    handlers: Mapping[str, Mapping[str, Any]] | None = None,
    admission: Admission | None = None,
    record: Record | None = None,
    longest: float = 60.0,
) -> AsyncIterator[Running]:
    """A server for these callers; `handlers` are those of further services, by service and method."""
    delegations = FakeDelegations()
    running = Running(pki, FakeTokens(), delegations, FakeConsent(delegations))
    servicer = Servicer(running.delegations, running.tokens, running.consent)
    server, running.addresses = build_server(
        servicer,
        Guard(admission or Admission(Policy(callers)), record=record, longest=longest),
        listen,
        pki.files,
        max_connection_age=max_connection_age,
        health=HealthServicer(),
    )
    for service, methods in (handlers or {}).items():
        server.add_registered_method_handlers(service, dict(methods))
    await server.start()
    try:
        yield running
    finally:
        await server.stop(None)


@dataclass(frozen=True)
class Refusal:
    """What a caller is told of a failure."""

    code: grpc.StatusCode
    message: str
    reason: str | None = None
    domain: str | None = None
    retry_after: float | None = None
    violations: tuple[tuple[str, str], ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


def refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """Read the status and its details."""
    status = rpc_status.from_call(error)
    found: dict[str, Any] = {}
    for detail in status.details if status else ():
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo, error_details_pb2.BadRequest):
            message = kind()
            if not detail.Unpack(message):
                continue
            if kind is error_details_pb2.ErrorInfo:
                found |= {"reason": message.reason, "domain": message.domain}
                found["metadata"] = dict(message.metadata)
            elif kind is error_details_pb2.RetryInfo:
                found["retry_after"] = message.retry_delay.ToMilliseconds() / 1000
            else:
                found["violations"] = tuple((v.field, v.description) for v in message.field_violations)
    return Refusal(error.code(), error.details() or "", **found)


def consumer(consumer_id: str = "alice") -> pb.Context:
    return pb.Context(consumer=pb.ConsumerContext(consumer_id=consumer_id))


def conversation(conversation_id: str = "chat-1") -> pb.Context:
    return pb.Context(conversation=pb.ConversationContext(conversation_id=conversation_id))
