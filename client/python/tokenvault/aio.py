"""The asyncio client: the synchronous one's twin, method by method."""

import asyncio
from asyncio import sleep
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc

from tokenvault import _calls
from tokenvault._calls import Call, Deadline, Request, Response, Result, bearer
from tokenvault._connection import StrPath, connection, from_environment
from tokenvault._status import error_from
from tokenvault.credentials import ClientCredentials
from tokenvault.errors import BearerInvalid, Unavailable
from tokenvault.models import Challenge, ChallengeOptions, Delegated, Revocation, Token
from tokenvault.source import AsyncTokenSource
from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault.v1.token_vault_pb2_grpc import TokenVaultStub

if TYPE_CHECKING:
    from tokenvault.v1.token_vault_pb2_grpc import TokenVaultAsyncStub


class AsyncTokenVaultClient:
    """As `TokenVaultClient`, with `await`. One client serves all tasks of one event loop.

    Make it where that loop runs.
    """

    def __init__(
        self,
        address: str,
        *,
        ca: StrPath,
        certificate: StrPath,
        private_key: StrPath,
        server_name: str | None = None,
        timeout: float | None = None,
        credentials: ClientCredentials | None = None,
    ) -> None:
        """As `TokenVaultClient`. Raises RuntimeError where no event loop runs."""
        asyncio.get_running_loop()  # the channel would bind to a loop that may never run
        self._connection = connection(
            address, ca=ca, certificate=certificate, private_key=private_key, server_name=server_name
        )
        self._timeout = timeout
        self._credentials = credentials
        self._retired = self._channel = self._open()
        self._newest = TokenVaultStub(self._channel)

    @classmethod
    def from_environment(
        cls,
        *,
        server_name: str | None = None,
        timeout: float | None = None,
        credentials: ClientCredentials | None = None,
    ) -> Self:
        """As `TokenVaultClient.from_environment`."""
        return cls(**from_environment(), server_name=server_name, timeout=timeout, credentials=credentials)

    async def start_delegation(
        self,
        brand: str,
        *,
        consumer: str | None = None,
        conversation: str | None = None,
        scopes: str | Iterable[str] = (),
        redirect_uri: str | None = None,
        expected_subject: str | None = None,
        authorization_parameters: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Challenge:
        """Start a delegation: as `TokenVaultClient.start_delegation`."""
        call = _calls.start_delegation(
            brand,
            consumer=consumer,
            conversation=conversation,
            scopes=scopes,
            redirect_uri=redirect_uri,
            expected_subject=expected_subject,
            authorization_parameters=authorization_parameters,
        )
        return await self._make(self._stub.StartDelegation, call, timeout)

    async def complete_delegation(
        self,
        parameters: Mapping[str, str] | None = None,
        /,
        *,
        state: str | None = None,
        code: str | None = None,
        iss: str | None = None,
        error: str | None = None,
        error_description: str | None = None,
        timeout: float | None = None,
    ) -> Delegated:
        """Complete a delegation: as `TokenVaultClient.complete_delegation`."""
        call = _calls.complete_delegation(
            parameters, state=state, code=code, iss=iss, error=error, error_description=error_description
        )
        return await self._make(self._stub.CompleteDelegation, call, timeout)

    async def confirm_delegation(
        self,
        delegation_id: str,
        code: str,
        *,
        timeout: float | None = None,
    ) -> Delegated:
        """Unlock a delegation: as `TokenVaultClient.confirm_delegation`."""
        call = _calls.confirm_delegation(delegation_id, code)
        return await self._make(self._stub.ConfirmDelegation, call, timeout)

    async def watch_delegation(self, delegation_id: str, *, timeout: float | None = None) -> Delegated:
        """What becomes of a delegation: as `TokenVaultClient.watch_delegation`."""
        call = _calls.watch_delegation(delegation_id)
        deadline = call.deadline(timeout)
        while True:
            try:
                return await self._make(self._last_event, call, deadline.left())  # type: ignore[arg-type]  # called alike
            except Unavailable as error:
                pause = _calls.resume_after(error, deadline)
            await sleep(pause)

    async def challenge(
        self,
        brand: str,
        *,
        consumer: str | None = None,
        conversation: str | None = None,
        scopes: str | Iterable[str] = (),
        redirect_uri: str | None = None,
        expected_subject: str | None = None,
        authorization_parameters: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> "PendingChallenge":
        """Start a delegation, of which the `outcome` can be awaited: as `TokenVaultClient.challenge`."""
        started = await self.start_delegation(
            brand,
            consumer=consumer,
            conversation=conversation,
            scopes=scopes,
            redirect_uri=redirect_uri,
            expected_subject=expected_subject,
            authorization_parameters=authorization_parameters,
            timeout=timeout,
        )
        return PendingChallenge(self, started)

    async def get_token(
        self,
        brand: str,
        *,
        consumer: str | None = None,
        conversation: str | None = None,
        scopes: str | Iterable[str] = (),
        min_ttl: float = 0.0,
        rejected_token_version: str | None = None,
        include_id_token: bool = False,
        challenge: bool | ChallengeOptions = False,
        timeout: float | None = None,
    ) -> Token:
        """A valid access token: as `TokenVaultClient.get_token`."""
        call = _calls.get_token(
            brand,
            consumer=consumer,
            conversation=conversation,
            scopes=scopes,
            min_ttl=min_ttl,
            rejected_token_version=rejected_token_version,
            include_id_token=include_id_token,
            challenge=challenge,
        )
        return await self._make(self._stub.GetToken, call, timeout)

    def token_source(
        self,
        brand: str,
        *,
        consumer: str | None = None,
        conversation: str | None = None,
        scopes: str | Iterable[str] = (),
    ) -> AsyncTokenSource:
        """A source of valid tokens of one context: as `TokenVaultClient.token_source`."""
        wanted = _calls.scope_list(scopes)

        async def ask(rejected: str | None) -> Token:
            return await self.get_token(
                brand,
                consumer=consumer,
                conversation=conversation,
                scopes=wanted,
                rejected_token_version=rejected,
            )

        _calls.context(consumer, conversation)
        return AsyncTokenSource(ask)

    async def invalidate(
        self,
        brand: str,
        *,
        consumer: str | None = None,
        conversation: str | None = None,
        timeout: float | None = None,
    ) -> Revocation:
        """Forget a context: as `TokenVaultClient.invalidate`."""
        call = _calls.invalidate(brand, consumer=consumer, conversation=conversation)
        return await self._make(self._stub.Invalidate, call, timeout)

    async def close(self) -> None:
        """Close the connection. Calls under way are cancelled."""
        await self._channel.close()
        await self._retired.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _last_event(
        self, request: pb.WatchDelegationRequest, *, timeout: float, metadata: tuple[tuple[str, str], ...]
    ) -> pb.WatchDelegationResponse:
        last = pb.WatchDelegationResponse()
        events = self._stub.WatchDelegation(request, timeout=timeout, metadata=metadata)
        async for event in events:
            last = event
            if _calls.is_news(event):
                break
        events.cancel()
        return last

    @property
    def _stub(self) -> "TokenVaultAsyncStub":
        """Over a new connection once the files have changed; calls under way end on the old one."""
        if self._connection.changed():
            self._retired, self._channel = self._channel, self._open()
            self._newest = TokenVaultStub(self._channel)
        return self._newest

    def _open(self) -> grpc.aio.Channel:
        connection = self._connection
        return grpc.aio.secure_channel(connection.address, connection.credentials, options=connection.options)

    async def _make(
        self,
        rpc: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]",
        call: Call[Request, Response, Result],
        timeout: float | None,
    ) -> Result:
        deadline = call.deadline(timeout, self._timeout)
        if self._credentials is None:
            return await self._send(rpc, call, deadline, None)
        token = await self._credentials.aio.token(deadline.left())
        try:
            return await self._send(rpc, call, deadline, token)
        except BearerInvalid:  # nothing was done: once more, with a new token
            token = await self._credentials.aio.token(deadline.left(), rejected=token)
        return await self._send(rpc, call, deadline, token)

    async def _send(
        self,
        rpc: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]",
        call: Call[Request, Response, Result],
        deadline: Deadline,
        token: str | None,
    ) -> Result:
        try:
            response = await rpc(call.request, timeout=deadline.left(), metadata=bearer(token))
        except grpc.RpcError as error:
            raise error_from(error, address=self._connection.address, timeout=deadline.seconds) from None
        return call.read(response)


class PendingChallenge:
    """A link that asks a consumer for access, and what comes of it.

    `authorization_url` is for the consumer's browser: it works once, until
    `expire_time`, and belongs in no log. `delegation_id` is no secret.
    """

    def __init__(self, vault: AsyncTokenVaultClient, started: Challenge) -> None:
        self._vault = vault
        self.delegation_id = started.delegation_id
        self.authorization_url = started.authorization_url
        self.expire_time = started.expire_time

    def __repr__(self) -> str:
        return f"PendingChallenge({self.delegation_id!r})"

    async def outcome(self, *, timeout: float | None = None) -> Delegated:
        """Wait for it: as `watch_delegation`."""
        return await self._vault.watch_delegation(self.delegation_id, timeout=timeout)

    async def confirm(self, code: str, *, timeout: float | None = None) -> Delegated:
        """Unlock it: as `confirm_delegation`."""
        return await self._vault.confirm_delegation(self.delegation_id, code, timeout=timeout)
