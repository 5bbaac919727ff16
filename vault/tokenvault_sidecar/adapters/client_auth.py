"""How the client authenticates at the token and revocation endpoints (RFC 6749 section 2.3, RFC 7523)."""

import secrets
from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol
from urllib.parse import quote_plus

import httpx2
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey

from tokenvault_sidecar.adapters.jose import ALGORITHMS, SignatureRegistry, read_private_key
from tokenvault_sidecar.core.model import Secret
from tokenvault_sidecar.core.ports import Clock

_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_ASSERTION_LIFETIME = 60
_CURVE_ALGORITHMS = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}


class ClientAuth(StrEnum):
    """The methods, by their registered names (OpenID Connect Core section 9)."""

    CLIENT_SECRET_BASIC = "client_secret_basic"  # noqa: S105 a method's name
    CLIENT_SECRET_POST = "client_secret_post"  # noqa: S105 a method's name
    PRIVATE_KEY_JWT = "private_key_jwt"
    NONE = "none"


class Authenticator(Protocol):
    """What a request carries besides its own parameters."""

    def form(self) -> Mapping[str, str]:
        """Parameters for the request's body, new for each request."""

    def header(self) -> httpx2.Auth | None:
        """The Authorization header, if any."""


class Basic:
    """client_secret_basic: both parts form-encoded first (RFC 6749 section 2.3.1)."""

    def __init__(self, client_id: str, secret: Secret) -> None:
        self._client_id = client_id
        self._secret = secret

    def form(self) -> Mapping[str, str]:
        return {}

    def header(self) -> httpx2.Auth:
        return httpx2.BasicAuth(quote_plus(self._client_id), quote_plus(self._secret.reveal()))


class Post:
    """client_secret_post, and without a secret `none`: a public client only says its name."""

    def __init__(self, client_id: str, secret: Secret | None) -> None:
        self._client_id = client_id
        self._secret = secret

    def form(self) -> Mapping[str, str]:
        secret = {} if self._secret is None else {"client_secret": self._secret.reveal()}
        return {"client_id": self._client_id, **secret}

    def header(self) -> None:
        return None


class PrivateKeyJwt:
    """private_key_jwt: an assertion of one minute's life, with a jti of its own for each request (RFC 7523).

    Its audience is the issuer, as RFC 7523's update asks: a token endpoint's
    URL could be that of another server. Raises ValueError where key and
    algorithm don't fit.
    """

    def __init__(
        self,
        client_id: str,
        *,
        private_key: Secret,
        key_id: str | None,
        algorithm: str | None,
        audience: str,
        clock: Clock,
    ) -> None:
        self._client_id = client_id
        self._key = read_private_key(private_key.reveal())
        self._algorithm = algorithm or _usual_algorithm(self._key)
        if self._algorithm not in ALGORITHMS:
            raise ValueError(f"not a signature algorithm for private_key_jwt: {self._algorithm}")
        self._key_id = key_id
        self._audience = audience
        self._clock = clock
        self._registry = SignatureRegistry(frozenset([self._algorithm]))
        try:
            self.form()
        except (JoseError, ValueError, TypeError, AttributeError):
            problem = f"the private key is not one for {self._algorithm}"
        else:
            return
        raise ValueError(problem)

    def form(self) -> Mapping[str, str]:
        now = int(self._clock())
        header = {"alg": self._algorithm, **({"kid": self._key_id} if self._key_id else {})}
        claims = {
            "iss": self._client_id,
            "sub": self._client_id,
            "aud": self._audience,
            "jti": secrets.token_urlsafe(24),
            "iat": now,
            "exp": now + _ASSERTION_LIFETIME,
        }
        assertion = jwt.encode(header, claims, self._key, registry=self._registry)
        return {"client_assertion_type": _ASSERTION_TYPE, "client_assertion": assertion}

    def header(self) -> None:
        return None


def _usual_algorithm(key: Key) -> str:
    if isinstance(key, ECKey):
        return _CURVE_ALGORITHMS.get(key.curve_name, "ES256")
    return "EdDSA" if isinstance(key, OKPKey) else "RS256"
