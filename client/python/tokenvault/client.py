"""The synchronous client."""

from collections.abc import Iterable, Mapping
from time import sleep
from types import TracebackType
from typing import Self

import grpc

from tokenvault import _calls
from tokenvault._calls import Call, Deadline, Request, Response, Result, bearer
from tokenvault._connection import StrPath, connection, from_environment
from tokenvault._status import error_from
from tokenvault.credentials import ClientCredentials
from tokenvault.errors import BearerInvalid, Unavailable
from tokenvault.models import Challenge, ChallengeOptions, Delegated, Revocation, Token
from tokenvault.source import TokenSource
from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault.v1.token_vault_pb2_grpc import TokenVaultStub


class TokenVaultClient:
    """The sidecar, over mutual TLS. One client serves many threads; keep it as long as the program runs.

    Connects by itself at the first call, and again whenever it must. Use it
    as a context manager, or `close()` it. Every call has a deadline and
    raises a TokenVaultError. By itself only `confirm_delegation`, `get_token`
    and `invalidate` are repeated, where there is no connection, and one whose bearer token was
    refused.
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
        """Read the files; nothing is sent yet.

        `address` is "host:port", "dns:host:port" or "unix:/path". `ca`,
        `certificate` and `private_key` are PEM files: who issued the
        sidecar's certificate, and what this caller shows of itself.
        `server_name` is the name the sidecar's certificate must carry: the
        address's host where None, "localhost" on a unix socket. `timeout` is
        in seconds, for each call that is given none; None: 30 for
        `complete_delegation`, 10 for the others. `credentials`: where the
        sidecar wants to see an access token of this service beside its
        certificate.

        Raises ValueError for a malformed address or file, OSError for a file
        that cannot be read; both name it.
        """
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
        """A client for TOKENVAULT_ADDRESS, with the files TOKENVAULT_CA, TOKENVAULT_CERT and TOKENVAULT_KEY.

        Raises ValueError naming the variables that are not set; else as the
        constructor.
        """
        return cls(**from_environment(), server_name=server_name, timeout=timeout, credentials=credentials)

    def start_delegation(
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
        """Start a delegation: a link that asks the consumer for access. Each call is a new one.

        Give exactly one of `consumer` and `conversation`, else TypeError.
        `scopes` (RFC 6749 section 3.3) and `redirect_uri` default to the
        brand's. `expected_subject`: the "sub" that must log in (consumers
        only). `authorization_parameters`: such as prompt or ui_locales, where
        the brand's configuration allows them. `timeout` in seconds.
        """
        call = _calls.start_delegation(
            brand,
            consumer=consumer,
            conversation=conversation,
            scopes=scopes,
            redirect_uri=redirect_uri,
            expected_subject=expected_subject,
            authorization_parameters=authorization_parameters,
        )
        return self._make(self._stub.StartDelegation, call, timeout)

    def complete_delegation(
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
        """Complete a delegation with what arrived at the redirect URI (RFC 6749 section 4.1.2, RFC 9207).

        Give the query parameters as they are, decoded, as one mapping (others
        than those below are passed over) or by keyword, not both. A state
        works once: never repeat this call. Where the answer has a
        `confirmation`, the grant is locked. `timeout` in seconds.

        Raises DelegationFailed where nothing came of it: AuthorizationDenied
        where the consumer declined.
        """
        call = _calls.complete_delegation(
            parameters, state=state, code=code, iss=iss, error=error, error_description=error_description
        )
        return self._make(self._stub.CompleteDelegation, call, timeout)

    def confirm_delegation(
        self,
        delegation_id: str,
        code: str,
        *,
        timeout: float | None = None,
    ) -> Delegated:
        """Unlock a delegation with the code that its consumer was shown, as they typed it. Safe to repeat.

        Raises ConfirmationCodeWrong where it is another, with how many more
        may be tried; InvalidRequest where it is not of eight digits, which
        costs no try; StateNotFound where the delegation waits for no code
        (any more). `timeout` in seconds.
        """
        call = _calls.confirm_delegation(delegation_id, code)
        return self._make(self._stub.ConfirmDelegation, call, timeout)

    def watch_delegation(self, delegation_id: str, *, timeout: float | None = None) -> Delegated:
        """What becomes of a delegation: waits until the consumer has come back, whoever completed it.

        Raises DelegationFailed: AuthorizationDenied where the consumer
        declined, DelegationExpired where they did not come back in time. Raises
        ConfirmationRequired as soon as they have logged in and were shown a
        code: ask for it, and call `confirm_delegation`.
        `timeout` in seconds, of this alone; None: as long as the link works.
        A connection that breaks meanwhile is made anew.
        """
        call = _calls.watch_delegation(delegation_id)
        deadline = call.deadline(timeout)
        while True:
            try:
                return self._make(self._last_event, call, deadline.left())  # type: ignore[arg-type]  # called alike
            except Unavailable as error:
                pause = _calls.resume_after(error, deadline)
            sleep(pause)

    def challenge(
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
        """Start a delegation, of which the `outcome` can be waited for.

            challenge = vault.challenge("acme", conversation="c-42")
            say(f"Please log in: {challenge.authorization_url}")
            challenge.outcome()

        Where the brand has its consumers confirm, `outcome` raises
        ConfirmationRequired, and `confirm` takes what they type. The arguments
        are `start_delegation`'s. The redirect must reach the sidecar's callback
        listener, or come to `complete_delegation`.
        """
        started = self.start_delegation(
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

    def get_token(
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
        """A valid access token, renewed by the sidecar where it must be. Safe to repeat.

        Give exactly one of `consumer` and `conversation`, else TypeError.
        `scopes`: what the token must have. `min_ttl`: seconds of life it must
        have left, at most 3600. `rejected_token_version`: of a token the
        brand's API answered 401 to, so that it is renewed first.
        `include_id_token`: consumers only, where the policy allows it.
        `challenge`: where the consumer must be challenged, have that started
        too, as `start_delegation` would; its link, the same for all who ask
        meanwhile, is then the error's `challenge`. `timeout` in seconds.

        Raises ConsentRequired where the consumer must be challenged (again);
        with `challenge`, where there can be no link, as `start_delegation`,
        and ConfirmationRequired where they have followed it and were shown a
        code.
        """
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
        return self._make(self._stub.GetToken, call, timeout)

    def token_source(
        self,
        brand: str,
        *,
        consumer: str | None = None,
        conversation: str | None = None,
        scopes: str | Iterable[str] = (),
    ) -> TokenSource:
        """A source of valid tokens of one context: from memory, and from the sidecar only when it must be.

        Parameters as of `get_token`. Keep it: what it holds is shared by all
        who use the same source.
        """
        wanted = _calls.scope_list(scopes)

        def ask(rejected: str | None) -> Token:
            return self.get_token(
                brand,
                consumer=consumer,
                conversation=conversation,
                scopes=wanted,
                rejected_token_version=rejected,
            )

        _calls.context(consumer, conversation)
        return TokenSource(ask)

    def invalidate(
        self,
        brand: str,
        *,
        consumer: str | None = None,
        conversation: str | None = None,
        timeout: float | None = None,
    ) -> Revocation:
        """Forget a context: its tokens are deleted when this returns. Safe to repeat.

        Give exactly one of `consumer` and `conversation`, else TypeError.
        The answer says what becomes of the tokens at the authorization
        server. `timeout` in seconds.
        """
        call = _calls.invalidate(brand, consumer=consumer, conversation=conversation)
        return self._make(self._stub.Invalidate, call, timeout)

    def close(self) -> None:
        """Close the connection. Calls under way are cancelled."""
        self._channel.close()
        self._retired.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _last_event(
        self, request: pb.WatchDelegationRequest, *, timeout: float, metadata: tuple[tuple[str, str], ...]
    ) -> pb.WatchDelegationResponse:
        last = pb.WatchDelegationResponse()
        events = self._stub.WatchDelegation(request, timeout=timeout, metadata=metadata)
        for event in events:
            last = event
            if _calls.is_news(event):
                break
        events.cancel()
        return last

    @property
    def _stub(self) -> TokenVaultStub:
        """Over a new connection once the files have changed; calls under way end on the old one."""
        if self._connection.changed():
            self._retired, self._channel = self._channel, self._open()
            self._newest = TokenVaultStub(self._channel)
        return self._newest

    def _open(self) -> grpc.Channel:
        connection = self._connection
        return grpc.secure_channel(connection.address, connection.credentials, options=connection.options)

    def _make(
        self,
        rpc: "grpc.UnaryUnaryMultiCallable[Request, Response]",
        call: Call[Request, Response, Result],
        timeout: float | None,
    ) -> Result:
        deadline = call.deadline(timeout, self._timeout)
        if self._credentials is None:
            return self._send(rpc, call, deadline, None)
        token = self._credentials.token(deadline.left())
        try:
            return self._send(rpc, call, deadline, token)
        except BearerInvalid:  # nothing was done: once more, with a new token
            token = self._credentials.token(deadline.left(), rejected=token)
        return self._send(rpc, call, deadline, token)

    def _send(
        self,
        rpc: "grpc.UnaryUnaryMultiCallable[Request, Response]",
        call: Call[Request, Response, Result],
        deadline: Deadline,
        token: str | None,
    ) -> Result:
        try:
            response = rpc(call.request, timeout=deadline.left(), metadata=bearer(token))
        except grpc.RpcError as error:
            raise error_from(error, address=self._connection.address, timeout=deadline.seconds) from None
        return call.read(response)


class PendingChallenge:
    """A link that asks a consumer for access, and what comes of it.

    `authorization_url` is for the consumer's browser: it works once, until
    `expire_time`, and belongs in no log. `delegation_id` is no secret.
    """

    def __init__(self, vault: TokenVaultClient, started: Challenge) -> None:
        self._vault = vault
        self.delegation_id = started.delegation_id
        self.authorization_url = started.authorization_url
        self.expire_time = started.expire_time

    def __repr__(self) -> str:
        return f"PendingChallenge({self.delegation_id!r})"

    def outcome(self, *, timeout: float | None = None) -> Delegated:
        """Wait for it: as `watch_delegation`."""
        return self._vault.watch_delegation(self.delegation_id, timeout=timeout)

    def confirm(self, code: str, *, timeout: float | None = None) -> Delegated:
        """Unlock it: as `confirm_delegation`."""
        return self._vault.confirm_delegation(self.delegation_id, code, timeout=timeout)
