"""What is fuzzed: the whole service over mutual TLS, with the real core, bearer check and audit log."""

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from joserfc.jwk import ECKey

from tests.adapters.bearer_world import AUDIENCE, SCOPE, signed
from tests.api.running import BOT, DEADLINE, SERVICE, Pki
from tests.core.world import ACME, ALICE, CHAT, World
from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault_sidecar.adapters.audit import AuditLog
from tokenvault_sidecar.adapters.bearer import BearerSettings, BearerVerifier
from tokenvault_sidecar.api.guard import Admission, Guard
from tokenvault_sidecar.api.record import recorder
from tokenvault_sidecar.api.server import HealthServicer, build_server
from tokenvault_sidecar.api.servicer import Servicer
from tokenvault_sidecar.core.challenges import DelegationRequest
from tokenvault_sidecar.core.exchange import AuthorizationResponse
from tokenvault_sidecar.core.limits import Limits
from tokenvault_sidecar.core.model import ContextKind
from tokenvault_sidecar.core.policy import Allow, Caller, Policy, Rpc

METHODS: Final[Sequence[MethodDescriptor]] = tuple(
    method
    for file in (pb.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
    for method in service.methods
)
"""Every method there is."""

CALLERS: Final = ("bot", "orders")
"""A bot that may do everything, and a brand service that shows a bearer token too."""

Metadata = Sequence[tuple[str, str | bytes]]

_TIDY_EVERY: Final = 500
_ISSUER: Final = "https://issuer.example"
_PLENTY: Final = Limits(rate=1e9, burst=10**9)


class Target:
    """A running service, with a grant of each kind."""

    def __init__(self, world: World, pki: Pki, address: str, key: ECKey) -> None:
        self.world = world
        self.pki = pki
        self.address = address
        self._key = key
        self._sent = 0
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._conversing: dict[str, grpc.Channel] = {}

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """With a connection of each caller."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with AsyncExitStack() as stack:
            for caller, certificate in (("bot", self.pki.bot), ("orders", self.pki.orders)):
                how = (
                    self.address,
                    grpc.ssl_channel_credentials(
                        self.pki.ca.certificate_pem, certificate.private_key_pem, certificate.certificate_pem
                    ),
                )
                self._channels[caller] = await stack.enter_async_context(
                    grpc.aio.secure_channel(*how, options)
                )
                self._conversing[caller] = stack.enter_context(grpc.secure_channel(*how, options))
            yield

    async def send(
        self,
        method: MethodDescriptor,
        requests: Sequence[bytes],
        *,
        caller: str = "bot",
        metadata: Metadata = (),
    ) -> tuple[grpc.StatusCode, str]:
        """Call with these bytes; the status and its text. Of a stream of answers, the first is awaited."""
        self._sent += 1
        if self._sent % _TIDY_EVERY == 0:
            await self.tidy()
        path = f"/{method.containing_service.full_name}/{method.name}"
        given: Any = {"timeout": DEADLINE, "metadata": tuple(metadata)}
        try:
            if method.client_streaming:
                await asyncio.to_thread(self._converse, caller, path, requests, given)
            elif method.server_streaming:
                call = _untyped(self._channels[caller].unary_stream)(path)(requests[0], **given)
                await anext(aiter(call), None)
                call.cancel()  # it would never end by itself
            else:
                await _untyped(self._channels[caller].unary_unary)(path)(requests[0], **given)
        except grpc.RpcError as error:
            return error.code(), error.details() or ""
        return grpc.StatusCode.OK, ""

    def _converse(self, caller: str, path: str, requests: Sequence[bytes], given: Any) -> None:
        """By the synchronous client: grpc.aio's own says INTERNAL where the server ends it early."""
        for _ in _untyped(self._conversing[caller].stream_stream)(path)(iter(requests), **given):
            pass

    async def login(self) -> AuthorizationResponse:
        """What a consumer's browser brings back of a new delegation."""
        return self.world.server.login(await self.world.challenge(ALICE))

    async def delegation(self) -> str:
        """The id of a delegation that has begun."""
        return (await self.world.delegations.start(DelegationRequest("acme", ALICE, "bot"))).delegation_id

    async def locked(self) -> tuple[str, str]:
        """The id of a delegation whose consumer was shown a code, and the code."""
        challenge = await self.world.delegations.start(DelegationRequest("acme", ALICE, "bot"))
        self.world.vault.brands = {ACME.id: replace(ACME, confirms=True)}
        done = await self.world.complete(challenge.authorization_url.reveal())
        self.world.vault.brands = {ACME.id: ACME}
        assert done.confirmation is not None
        return challenge.delegation_id, done.confirmation.code.reveal()

    async def version(self) -> str:
        """The token version stored now for the consumer, empty where there is none."""
        row = await self.world.store.get_grant(self.world.vault.context_key(ACME.id, ALICE))
        return row.version if row else ""

    def bearer(self) -> str:
        """A token that the brand service's bearer check accepts."""
        now = int(self.world.clock())
        times = {"iat": now, "exp": now + 3600}
        claims = {"iss": _ISSUER, "aud": AUDIENCE, "client_id": "orders", "scope": SCOPE, **times}
        return f"Bearer {signed(claims, self._key, {'typ': 'at+jwt'})}"

    async def tidy(self) -> None:
        """As time does it: what is over is purged. The grants are there again."""
        await self.world.settle()
        assert [facts for name, facts in self.world.events.events if name == "defect"] == []
        self.world.clock.advance(24 * 3600)
        while await self.world.housekeeping.purge():
            pass
        await self.world.revoker.work()
        self.world.events.events.clear()
        server = self.world.server
        for noted in (server.requests, server.revoked, server.redeemed):
            noted.clear()
        for known in (server.codes, server.access_tokens, server.refresh_tokens):
            known.clear()
        for context in (ALICE, CHAT):
            await self.world.delegate(context)
        gc.collect()


@asynccontextmanager
async def target(folder: Path) -> AsyncIterator[Target]:
    """The service while the block lasts."""
    world, pki, key = World(), Pki.create(folder), ECKey.generate_key("P-256")
    bearer = BearerVerifier(
        BearerSettings(issuer=_ISSUER, audience=AUDIENCE, static_keys=key.as_pem(private=False).decode()),
        caller="orders",
        clock=world.clock,
    )
    audit = AuditLog(folder / "audit.jsonl", b"k" * 32, max_bytes=1 << 20)
    guard = Guard(
        Admission(Policy(_callers()), dict.fromkeys(CALLERS, _PLENTY), {"orders": bearer}),
        record=recorder(audit, world.vault.context_key),
    )
    server, (address,) = build_server(
        Servicer(world.delegations, world.tokens, world.consent),
        guard,
        ["127.0.0.1:0"],
        pki.files,
        max_connection_age=3600.0,
        health=HealthServicer(),
    )
    await server.start()
    async with AsyncExitStack() as stack:
        stack.callback(audit.close)
        stack.push_async_callback(bearer.aclose)
        stack.push_async_callback(server.stop, None)
        running = Target(world, pki, address, key)
        await running.tidy()
        await stack.enter_async_context(running.connected())
        yield running


def _untyped(made: Any) -> Any:
    """gRPC's stubs do not know that no serializer is a valid one."""
    return made


def _callers() -> tuple[Caller, ...]:
    everything = Allow(frozenset(Rpc), None, frozenset(ContextKind), id_token=True, keeps_session_alive=True)
    identities = zip(CALLERS, (BOT, SERVICE), strict=True)
    return tuple(Caller(name, frozenset({identity}), (everything,)) for name, identity in identities)
