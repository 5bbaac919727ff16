"""A brand's authorization server over HTTP (RFC 6749, RFC 7009, RFC 7636).

The link and the requests' parameters are Authlib's; sending them and reading
the answers is ours (http_client and answers say why).
"""

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, urlencode

from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7009 import prepare_revoke_token_request

from tokenvault_sidecar.adapters.answers import failure, is_revoked, read_token_answer
from tokenvault_sidecar.adapters.client_auth import Authenticator, ClientAuth, ClientSecret, PrivateKeyJwt
from tokenvault_sidecar.adapters.http_client import Answer, Miss, new_client, send
from tokenvault_sidecar.adapters.id_token import IdTokenVerifier
from tokenvault_sidecar.adapters.jose import ALGORITHMS, read_static_keys
from tokenvault_sidecar.adapters.metadata import (
    Discovery,
    Metadata,
    PublishedKeys,
    SigningKeys,
    StaticKeys,
    url_problem,
)
from tokenvault_sidecar.core.errors import ServerMisconfigured, ServerUnavailable
from tokenvault_sidecar.core.model import Secret
from tokenvault_sidecar.core.ports import AuthorizationRequest, Clock, IdClaims, ServerFacts, TokenAnswer

T = TypeVar("T")

_LIMIT = 1024 * 1024
_PROTECTED = (
    {"response_type", "client_id", "redirect_uri", "scope", "state", "nonce"}
    | {"code_challenge", "code_challenge_method"}
    | {"request", "request_uri"}  # RFC 9101: would replace all the others
)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How to reach an authorization server, and as whom.

    An endpoint given here wins over a discovered one. With both
    `authorization_endpoint` and `token_endpoint` given nothing is discovered.
    `static_keys` (text of a JWK set or PEM public keys) stand in for the
    `jwks_uri`. `sends_iss` None: what the metadata says (RFC 9207).
    `assertion_audience` None: the issuer. `deadline` is for one call,
    `metadata_lifetime` for a copy of metadata or keys, both in seconds.
    Raises ValueError where a setting is wrong.
    """

    issuer: str
    client_id: str
    client_auth: ClientAuth = ClientAuth.CLIENT_SECRET_BASIC
    client_secret: Secret | None = None
    private_key: Secret | None = None
    private_key_id: str | None = None
    private_key_algorithm: str | None = None
    assertion_audience: str | None = None
    authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    revocation_endpoint: str | None = None
    jwks_uri: str | None = None
    static_keys: str | None = field(default=None, repr=False)
    id_token_algorithms: tuple[str, ...] = ("RS256", "ES256", "PS256", "EdDSA")
    sends_iss: bool | None = None
    ca_file: Path | None = None
    development: bool = False
    deadline: float = 10.0
    metadata_lifetime: float = 3600.0

    def __post_init__(self) -> None:
        urls = ("issuer", "authorization_endpoint", "token_endpoint", "revocation_endpoint", "jwks_uri")
        for name in urls:
            url = getattr(self, name)
            if url is not None and (problem := url_problem(url, development=self.development)):
                raise ValueError(f"{name}: {problem}")
        if "?" in self.issuer:
            raise ValueError("issuer: holds a query")
        if (self.authorization_endpoint is None) != (self.token_endpoint is None):
            raise ValueError("authorization_endpoint and token_endpoint: give both, or none to discover them")
        if unknown := set(self.id_token_algorithms) - ALGORITHMS:
            raise ValueError(f"id_token_algorithms: not allowed: {', '.join(sorted(unknown))}")
        if not self.id_token_algorithms:
            raise ValueError("id_token_algorithms: none")


class OAuthServer:
    """Implements core.ports.AuthorizationServer; `brand` is for messages.

    Raises ValueError where a key or file of the settings is unusable.
    """

    def __init__(self, settings: ServerSettings, *, brand: str, clock: Clock = time.time) -> None:
        self._settings = settings
        self._brand = brand
        self._clock = clock
        self._client_auth = _authenticator(settings, clock)
        self._facts: ServerFacts | None = None
        static_keys = _static_keys(settings)
        self._client = new_client(settings.ca_file, deadline=settings.deadline, brand=brand)
        # Half the deadline: when the metadata cannot be had anew, the old copy still has time to serve.
        self._discovery = Discovery(
            self._client,
            whose=f"brand {brand!r}",
            issuer=settings.issuer,
            development=settings.development,
            deadline=settings.deadline / 2,
            lifetime=settings.metadata_lifetime,
            clock=clock,
        )
        self._keys: SigningKeys = static_keys or PublishedKeys(
            self._client,
            self._jwks_uri,
            whose=f"brand {brand!r}",
            deadline=settings.deadline / 2,
            lifetime=settings.metadata_lifetime,
            clock=clock,
        )
        self._verifier = IdTokenVerifier(
            brand=brand,
            issuer=settings.issuer,
            client_id=settings.client_id,
            algorithms=settings.id_token_algorithms,
            keys=self._keys,
        )

    @property
    def facts(self) -> ServerFacts | None:
        return self._facts

    async def prepare(self, *, keys: bool = False) -> ServerFacts:
        until = self._until()
        metadata = await self._within(until, self._metadata())
        if keys:
            await self._within(until, self._keys.get())
        self._facts = ServerFacts(
            issuer=metadata.issuer,
            sends_iss=metadata.sends_iss,
            revokes=metadata.revocation_endpoint is not None,
        )
        return self._facts

    async def authorization_url(self, request: AuthorizationRequest) -> str:
        """The link. The protocol's parameters win over `request.parameters` and the endpoint's own query."""
        metadata = await self._within(self._until(), self._metadata())
        endpoint, _, query = metadata.authorization_endpoint.partition("?")
        # No parameter may be there twice (RFC 6749 section 3.1).
        extra = {name: value for name, value in request.parameters.items() if value}
        kept = [pair for pair in parse_qsl(query, keep_blank_values=True) if pair[0] not in extra]
        others = [(name, value) for name, value in [*kept, *extra.items()] if name not in _PROTECTED]
        link: str = prepare_grant_uri(
            f"?{urlencode(others)}",
            client_id=self._settings.client_id,
            response_type="code",
            redirect_uri=request.redirect_uri,
            scope=request.scopes,
            state=request.state.reveal(),
            nonce=request.nonce.reveal(),
            code_challenge=request.code_challenge,
            code_challenge_method="S256",
        )
        # Not every server reads a plus as a space.
        return endpoint + link.replace("+", "%20")

    async def exchange(self, code: Secret, *, redirect_uri: str, code_verifier: Secret) -> TokenAnswer:
        return await self._redeem(
            prepare_token_request(
                "authorization_code",
                code=code.reveal(),
                redirect_uri=redirect_uri,
                code_verifier=code_verifier.reveal(),
            )
        )

    async def refresh(self, refresh_token: Secret) -> TokenAnswer:
        return await self._redeem(
            prepare_token_request("refresh_token", refresh_token=refresh_token.reveal())
        )

    async def revoke(self, token: Secret, *, hint: str) -> None:
        """Done also where the server does not know the token, or has no revocation endpoint."""
        until = self._until()
        metadata = await self._within(until, self._metadata())
        if metadata.revocation_endpoint is None:
            return
        form, _ = prepare_revoke_token_request(token.reveal(), hint)
        answer = await self._post(metadata.revocation_endpoint, form, until)
        if not is_revoked(answer):
            raise failure(answer, brand=self._brand, now=self._clock())

    async def verify_id_token(self, id_token: Secret, *, nonce: Secret | None, now: float) -> IdClaims:
        return await self._within(self._until(), self._verifier.verify(id_token, nonce=nonce, now=now))

    async def aclose(self) -> None:
        """Stop fetching and close the connections."""
        await self._discovery.aclose()
        await self._keys.aclose()
        await self._client.aclose()

    async def _redeem(self, form: str) -> TokenAnswer:
        until = self._until()
        metadata = await self._within(until, self._metadata())
        answer = await self._post(metadata.token_endpoint, form, until)
        return read_token_answer(answer, brand=self._brand, now=self._clock())

    async def _post(self, url: str, form: str, until: float) -> Answer | Miss:
        headers, form = self._client_auth.sign(url, form)
        return await send(
            self._client,
            "POST",
            url,
            headers=headers,
            form=form,
            until=until,
            send_by=until - self._settings.deadline / 4,
            limit=_LIMIT,
        )

    async def _metadata(self) -> Metadata:
        given = self._settings
        if given.authorization_endpoint and given.token_endpoint:
            metadata = Metadata(given.issuer, given.authorization_endpoint, given.token_endpoint)
        else:
            metadata = await self._discovery.get()
        return replace(
            metadata,
            revocation_endpoint=given.revocation_endpoint or metadata.revocation_endpoint,
            jwks_uri=given.jwks_uri or metadata.jwks_uri,
            sends_iss=metadata.sends_iss if given.sends_iss is None else given.sends_iss,
        )

    async def _jwks_uri(self) -> str:
        metadata = await self._metadata()
        if metadata.jwks_uri is None:
            raise ServerMisconfigured(
                f"brand {self._brand!r} has no keys to verify id tokens with: set jwks_uri or static keys"
            )
        return metadata.jwks_uri

    def _until(self) -> float:
        return asyncio.get_running_loop().time() + self._settings.deadline

    async def _within(self, until: float, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout_at(until):
                return await work
        except TimeoutError:
            pass
        raise ServerUnavailable(
            f"the authorization server of brand {self._brand!r} did not give its metadata or keys in time"
        )


def _static_keys(settings: ServerSettings) -> StaticKeys | None:
    if settings.static_keys is None:
        return None
    try:
        return StaticKeys(read_static_keys(settings.static_keys))
    except ValueError as unusable:
        raise ValueError(f"static_keys: {unusable}") from None


def _authenticator(settings: ServerSettings, clock: Clock) -> Authenticator:
    match settings.client_auth:
        case ClientAuth.NONE:
            return ClientSecret(ClientAuth.NONE, settings.client_id, None)
        case ClientAuth.PRIVATE_KEY_JWT:
            if settings.private_key is None:
                raise ValueError("private_key: private_key_jwt needs one")
            return PrivateKeyJwt(
                settings.client_id,
                private_key=settings.private_key,
                key_id=settings.private_key_id,
                algorithm=settings.private_key_algorithm,
                audience=settings.assertion_audience or settings.issuer,
                clock=clock,
            )
        case method:
            if settings.client_secret is None:
                raise ValueError(f"client_secret: {method} needs one")
            return ClientSecret(method, settings.client_id, settings.client_secret)
