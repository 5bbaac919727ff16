"""Verifying the access token a caller shows beside its certificate (RFC 9068, RFC 8705 section 3).

joserfc judges the registered claims; ours is how the token is shown, what it
must be for, whose certificate it is bound to, and an error without its values.
Authlib's classes for RFC 9068 are not strict enough: a token without typ would
pass, an id token thus too.
"""

import re
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from joserfc.errors import ClaimError, ExpiredTokenError, InvalidClaimError
from joserfc.jws import CompactSignature
from joserfc.jwt import JWTClaimsRegistry

from tokenvault_sidecar.adapters.http_client import new_client
from tokenvault_sidecar.adapters.jose import ALGORITHMS, read_static_keys
from tokenvault_sidecar.adapters.jwt import LEEWAY, JwtVerifier, Unsound, check_times
from tokenvault_sidecar.adapters.metadata import (
    PublishedKeys,
    SigningKeys,
    StaticKeys,
    find_metadata,
    read_endpoint,
    url_problem,
)
from tokenvault_sidecar.core.errors import BearerInvalid, ServerMisconfigured, ServerUnavailable
from tokenvault_sidecar.core.ports import Clock

_LARGEST = 8192
_DEADLINE = 3.0  # of one request: metadata and keys together take twice that, and callers wait
_LIFETIME = 3600.0
_TYPES = ("at+jwt", "application/at+jwt")
_BEARER = re.compile(r"(?i:bearer) +([A-Za-z0-9._~+/-]+=*)")  # RFC 6750 section 2.1
_CLAIMS = ("iss", "aud", "exp", "nbf", "iat")
_FAULTS: Mapping[tuple[type[ClaimError], str], str] = {
    (InvalidClaimError, "iss"): "its iss is another issuer",
    (InvalidClaimError, "aud"): "its aud does not name this vault",
    (ExpiredTokenError, "exp"): "it has expired",
    (InvalidClaimError, "nbf"): "its nbf is in the future (compare the clocks)",
    (InvalidClaimError, "iat"): "its iat is in the future (compare the clocks)",
}


@dataclass(frozen=True, slots=True)
class BearerSettings:
    """What a caller's token must be, and where its issuer's keys are.

    The keys are those at `jwks_uri`, or in `static_keys` (text of a JWK set or
    PEM public keys), or where the issuer's metadata says. All of `scopes` must
    be granted. `client_ids` None: any client's. `require_certificate_binding`:
    a token that is bound to no certificate is refused; one that is must be
    bound to the caller's in any case. Raises ValueError where a setting is wrong.
    """

    issuer: str
    audience: str
    scopes: tuple[str, ...] = ("delegated.token.read.external",)
    algorithms: tuple[str, ...] = ("RS256", "PS256", "ES256", "EdDSA")
    client_ids: frozenset[str] | None = None
    require_certificate_binding: bool = False
    jwks_uri: str | None = None
    static_keys: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    development: bool = False

    def __post_init__(self) -> None:
        for name in ("issuer", "jwks_uri"):
            url = getattr(self, name)
            if url is not None and (problem := url_problem(url, development=self.development)):
                raise ValueError(f"{name}: {problem}")
        for name in ("audience", "scopes", "algorithms"):
            if not getattr(self, name):
                raise ValueError(f"{name}: none")
        if unknown := set(self.algorithms) - ALGORITHMS:
            raise ValueError(f"algorithms: not allowed: {', '.join(sorted(unknown))}")


class BearerVerifier:
    """Implements core.ports.Bearer for one caller, whose name is for messages.

    Clocks may differ by 30 seconds. Keys are kept for an hour, fetched anew
    for a key id that is not among them every ten seconds at most, and serve on
    while the issuer is away. Raises ValueError where a key or file of the
    settings is unusable.
    """

    def __init__(
        self,
        settings: BearerSettings,
        *,
        caller: str,
        clock: Clock = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._caller = caller
        self._clock = clock
        static_keys = _static_keys(settings)
        self._client = new_client(settings.ca_file, deadline=_DEADLINE)
        self._keys: SigningKeys = static_keys or PublishedKeys(
            self._client,
            self._jwks_uri,
            whose=f"caller {caller!r}",
            deadline=_DEADLINE,
            lifetime=_LIFETIME,
            grace=_LIFETIME,
            clock=clock,
            monotonic=monotonic,
        )
        self._jwt = JwtVerifier(algorithms=settings.algorithms, keys=self._keys)

    async def verify(self, authorization: Sequence[str | bytes], certificate: bytes) -> None:
        """Return where `authorization`, all values of that metadata key, is one good token.

        `certificate` is the caller's, PEM. Raises BearerInvalid; and where
        there never were keys to verify it with, ServerUnavailable or
        ServerMisconfigured.
        """
        try:
            token = self._jwt.parse(_only_token(authorization))
            _check_type(token)
            claims = await self._claims(token)
            self._check(claims, now=self._clock())
            self._check_binding(claims, certificate)
        except Unsound as unsound:
            problem = str(unsound)
        else:
            return
        given = self._settings
        raise BearerInvalid(
            f"the bearer token of caller {self._caller!r} is refused: {problem}: show an access token "
            f"(RFC 9068) that {given.issuer} issued for {given.audience}, with scope {' '.join(given.scopes)}"
        )

    async def aclose(self) -> None:
        """Stop fetching and close the connections."""
        await self._keys.aclose()
        await self._client.aclose()

    async def _claims(self, token: CompactSignature) -> Mapping[str, object]:
        await self._keys.get()  # where there never were any, the token is not to blame
        try:
            return await self._jwt.claims(token)
        except (ServerUnavailable, ServerMisconfigured):
            pass
        raise Unsound("it is signed with a key not known here, and the issuer cannot be asked now")

    def _check(self, told: Mapping[str, object], *, now: float) -> None:
        given = self._settings
        # Only what is used: no caller is refused for the form of another claim.
        used = {name: told[name] for name in _CLAIMS if name in told}
        check_times(used)
        registry = JWTClaimsRegistry(
            int(now),
            LEEWAY,
            iss={"essential": True, "value": given.issuer},
            aud={"essential": True, "value": given.audience},
            exp={"essential": True},
            iat={"essential": True},
        )
        try:
            registry.validate(used)
        except ClaimError as error:
            problem = _FAULTS.get((type(error), error.claim), f"its {error.claim} is missing or unusable")
            raise Unsound(problem) from None
        client_id = told.get("client_id")
        if not isinstance(client_id, str) or not client_id:
            raise Unsound("its client_id is missing or unusable")
        if given.client_ids is not None and client_id not in given.client_ids:
            raise Unsound("its client_id is not one of this caller's")
        scope = told.get("scope")
        if not isinstance(scope, str) or not set(given.scopes).issubset(scope.split(" ")):
            raise Unsound("its scope does not hold what is needed")

    def _check_binding(self, told: Mapping[str, object], certificate: bytes) -> None:
        confirmation = told.get("cnf")
        if confirmation is None:
            if self._settings.require_certificate_binding:
                raise Unsound("it is bound to no certificate (RFC 8705 section 3.1)")
            return
        # Bound to something else, such as a DPoP key, it is no bearer token.
        bound_to = confirmation.get("x5t#S256") if isinstance(confirmation, dict) else None
        if bound_to is None or bound_to != _thumbprint(certificate):
            raise Unsound("it is not bound to this caller's certificate (RFC 8705 section 3.1)")

    async def _jwks_uri(self) -> str:
        given = self._settings
        if given.jwks_uri:
            return given.jwks_uri
        whose = f"caller {self._caller!r}"
        document = await find_metadata(
            self._client, given.issuer, whose=whose, deadline=_DEADLINE, clock=self._clock
        )
        return read_endpoint(document, "jwks_uri", whose=whose, development=given.development)


def _only_token(authorization: Sequence[str | bytes]) -> str:
    if not authorization:
        raise Unsound("there is none in the authorization metadata")
    if len(authorization) > 1:
        raise Unsound("the authorization metadata is there more than once")
    [value] = authorization
    if len(value) > _LARGEST:
        raise Unsound(f"it is larger than {_LARGEST} bytes")
    shown = _BEARER.fullmatch(value if isinstance(value, str) else value.decode("latin-1"))
    if not shown:
        raise Unsound('the authorization metadata is not "Bearer" and a token (RFC 6750 section 2.1)')
    return shown[1]


def _check_type(token: CompactSignature) -> None:
    kind = token.headers().get("typ")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise Unsound("its typ does not say that it is an access token (at+jwt, RFC 9068 section 2.1)")


def _thumbprint(certificate: bytes) -> str:
    try:
        digest = x509.load_pem_x509_certificate(certificate).fingerprint(hashes.SHA256())
    except ValueError:
        raise Unsound("the certificate it should be bound to cannot be read") from None
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def _static_keys(settings: BearerSettings) -> StaticKeys | None:
    if settings.static_keys is None:
        return None
    try:
        return StaticKeys(read_static_keys(settings.static_keys))
    except ValueError as unusable:
        raise ValueError(f"static_keys: {unusable}") from None
