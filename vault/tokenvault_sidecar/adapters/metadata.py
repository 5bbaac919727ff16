"""What an authorization server says of itself: its metadata and its signing keys.

Metadata by RFC 8414 or OpenID Connect Discovery 1.0, or from the configuration
alone; keys by RFC 7517, or static. A document is only believed where it names
the very issuer it was asked of (RFC 8414 section 3.3).

Where to look is Authlib's; judging what was found is ours: Authlib's metadata
classes take http to loopback everywhere, any http where an environment
variable says so, and refuse documents for members this client never reads.
"""

import asyncio
import ipaddress
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import httpx2
from authlib.oauth2 import rfc8414
from authlib.oidc import discovery

from tokenvault_sidecar.adapters.cached import Cached
from tokenvault_sidecar.adapters.http_client import Answer, Client, Miss, send
from tokenvault_sidecar.adapters.jose import Keys, read_key_set
from tokenvault_sidecar.core.errors import ServerMisconfigured, ServerUnavailable
from tokenvault_sidecar.core.ports import Clock

_LIMIT = 256 * 1024
_PAUSE = 10.0


@dataclass(frozen=True, slots=True)
class Metadata:
    """The members this client uses, by their names in RFC 8414; `sends_iss` is RFC 9207's."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    revocation_endpoint: str | None = None
    jwks_uri: str | None = None
    sends_iss: bool = False


def url_problem(url: str, *, development: bool) -> str | None:
    """What is wrong with an endpoint's or issuer's URL, None where nothing is.

    https only; http to loopback where `development` says so.
    """
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        return "not a URL"
    if parsed.scheme not in ("https", "http") or not parsed.host:
        return "not an absolute https URL"
    if parsed.userinfo or "#" in url:
        return "holds user information or a fragment"
    if parsed.scheme == "http" and not (development and _is_loopback(parsed.host)):
        return "not https (http is for loopback only, with development = true)"
    return None


class Discovery:
    """An issuer's published metadata. One that serves several documents is asked for OpenID's first.

    `whose` is for messages, as in "brand 'acme'". `deadline` in seconds is for
    one look, `lifetime` for a copy; an old copy serves while looking fails.
    """

    def __init__(
        self,
        client: Client,
        *,
        whose: str,
        issuer: str,
        development: bool,
        deadline: float,
        lifetime: float,
        clock: Clock = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._whose = whose
        self._issuer = issuer
        self._development = development
        self._deadline = deadline
        self._clock = clock
        self._cached = Cached(
            self._fetch, name=f"metadata of {whose}", lifetime=lifetime, pause=_PAUSE, clock=monotonic
        )

    async def get(self) -> Metadata:
        """The metadata. Raises ServerUnavailable, ServerMisconfigured."""
        return await self._cached.get()

    async def aclose(self) -> None:
        await self._cached.aclose()

    async def _fetch(self) -> Metadata:
        document = await find_metadata(
            self._client, self._issuer, whose=self._whose, deadline=self._deadline, clock=self._clock
        )
        return Metadata(
            issuer=self._issuer,
            authorization_endpoint=self._endpoint(document, "authorization_endpoint"),
            token_endpoint=self._endpoint(document, "token_endpoint"),
            revocation_endpoint=self._optional(document, "revocation_endpoint"),
            jwks_uri=self._optional(document, "jwks_uri"),
            sends_iss=document.get("authorization_response_iss_parameter_supported") is True,
        )

    def _optional(self, document: Mapping[str, object], name: str) -> str | None:
        return None if document.get(name) is None else self._endpoint(document, name)

    def _endpoint(self, document: Mapping[str, object], name: str) -> str:
        return read_endpoint(document, name, whose=self._whose, development=self._development)


async def find_metadata(
    client: Client, issuer: str, *, whose: str, deadline: float, clock: Clock = time.time
) -> Mapping[str, object]:
    """The document the issuer publishes, read no further. Raises ServerUnavailable, ServerMisconfigured."""
    until = asyncio.get_running_loop().time() + deadline
    for url in _well_known(issuer):
        answer = await send(client, "GET", url, until=until, limit=_LIMIT)
        document = _document(answer, what="metadata", whose=whose, now=clock())
        if document is None:
            continue
        if document.get("issuer") != issuer:
            raise ServerMisconfigured(
                f"the metadata of {whose} is of another issuer than configured "
                "(RFC 8414 section 3.3): it must match to the letter, a slash at its end included"
            )
        return document
    raise ServerMisconfigured(
        f"the issuer of {whose} publishes no metadata at .well-known/openid-configuration "
        "or .well-known/oauth-authorization-server: correct the issuer, or configure the endpoints"
    )


def read_endpoint(document: Mapping[str, object], name: str, *, whose: str, development: bool) -> str:
    """The endpoint of this name in a metadata document. Raises ServerMisconfigured."""
    url = document.get(name)
    problem = url_problem(url, development=development) if isinstance(url, str) else "missing or no string"
    if problem or not isinstance(url, str):
        raise ServerMisconfigured(f"the metadata of {whose}: its {name} is {problem}")
    return url


class SigningKeys(Protocol):
    """Where the keys of an authorization server's signatures come from."""

    async def get(self) -> Keys:
        """The keys at hand, fetched where there are none."""

    async def refetched(self) -> Keys:
        """The keys fetched anew, at a limited rate: what was signed names one that is not at hand."""

    async def aclose(self) -> None:
        """Stop a fetch under way."""


class StaticKeys:
    """Keys from the configuration."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def get(self) -> Keys:
        return self._keys

    async def refetched(self) -> Keys:
        return self._keys

    async def aclose(self) -> None:
        return


class PublishedKeys:
    """The JWK set at the URL that `locate` gives; an old copy serves while fetching fails.

    `grace` in seconds: how long after its lifetime it serves at once, and is
    fetched anew meanwhile; 0: who asks waits for the new one.
    """

    def __init__(
        self,
        client: Client,
        locate: Callable[[], Awaitable[str]],
        *,
        whose: str,
        deadline: float,
        lifetime: float,
        grace: float = 0.0,
        clock: Clock = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._locate = locate
        self._whose = whose
        self._deadline = deadline
        self._clock = clock
        self._cached = Cached(
            self._fetch,
            name=f"keys of {whose}",
            lifetime=lifetime,
            pause=_PAUSE,
            grace=grace,
            clock=monotonic,
        )

    async def get(self) -> Keys:
        return await self._cached.get()

    async def refetched(self) -> Keys:
        return await self._cached.refetched()

    async def aclose(self) -> None:
        await self._cached.aclose()

    async def _fetch(self) -> Keys:
        url = await self._locate()
        until = asyncio.get_running_loop().time() + self._deadline
        answer = await send(self._client, "GET", url, until=until, limit=_LIMIT)
        document = _document(answer, what="JWK set", whose=self._whose, now=self._clock())
        try:
            return read_key_set(document or {})
        except ValueError as unusable:
            raise ServerMisconfigured(
                f"what the jwks_uri of {self._whose} serves is unusable: {unusable}"
            ) from None


def _document(answer: Answer | Miss, *, what: str, whose: str, now: float) -> Mapping[str, object] | None:
    """The JSON object fetched; None: it is not there."""
    match answer:
        case Miss.UNTRUSTED:
            raise ServerMisconfigured(
                f"the {what} of {whose}: the server's certificate is not trusted; set ca_file, "
                "or have the server present one this system trusts"
            )
        case Miss():
            raise ServerUnavailable(f"the {what} of {whose} could not be fetched: no answer came")
        case Answer(status=200, body=None):
            raise ServerUnavailable(f"the {what} of {whose} came cut off or too large")
        case Answer(status=200):
            return answer.json_object()
        case Answer(status=status) if status in (408, 429) or status >= 500:
            raise ServerUnavailable(
                f"the {what} of {whose} could not be fetched: status {status}",
                retry_after=answer.retry_after(now),
            )
        case _:
            return None


def _well_known(issuer: str) -> tuple[str, str]:
    """OpenID Connect Discovery section 4.1 appends, RFC 8414 section 3.1 inserts."""
    bare = issuer.rstrip("/")  # both ask for it, Authlib's RFC 8414 leaves it to us
    return (
        discovery.get_well_known_url(bare, external=True),
        rfc8414.get_well_known_url(bare, external=True),
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
