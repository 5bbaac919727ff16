"""How the client authenticates at the token and revocation endpoints (RFC 6749 section 2.3, RFC 7523).

Authlib puts the credentials on a request; ours is what it leaves out: the
form-encoding before Basic, and an assertion made anew, of one minute's life,
for each request.
"""

import warnings
from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol
from urllib.parse import quote_plus

from authlib.oauth2.auth import ClientAuth as Credentials
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, Key, OKPKey

from tokenvault_sidecar.adapters.jose import ALGORITHMS, read_private_key
from tokenvault_sidecar.core.model import Secret
from tokenvault_sidecar.core.ports import Clock

_ASSERTION_LIFETIME = 60
_CURVE_ALGORITHMS = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}

Signed = tuple[Mapping[str, str], str]
"""Headers and form of a request that says who sends it."""


class ClientAuth(StrEnum):
    """The methods, by their registered names (OpenID Connect Core section 9)."""

    CLIENT_SECRET_BASIC = "client_secret_basic"  # noqa: S105 a method's name
    CLIENT_SECRET_POST = "client_secret_post"  # noqa: S105 a method's name
    PRIVATE_KEY_JWT = "private_key_jwt"
    NONE = "none"


class Authenticator(Protocol):
    """Says in a request who sends it."""

    def sign(self, url: str, form: str) -> Signed:
        """The headers and the form-encoded body to send to `url`, for one request."""


class ClientSecret:
    """client_secret_basic, client_secret_post, and `none`: a public client only says its name."""

    def __init__(self, method: ClientAuth, client_id: str, secret: Secret | None) -> None:
        self._method = method
        self._client_id = client_id
        self._secret = secret

    def sign(self, url: str, form: str) -> Signed:
        client_id, secret = self._client_id, None if self._secret is None else self._secret.reveal()
        if self._method is ClientAuth.CLIENT_SECRET_BASIC and secret is not None:
            # RFC 6749 section 2.3.1; Authlib does not, and a secret with a "%" or "+" would be refused.
            client_id, secret = quote_plus(client_id), quote_plus(secret)
        return _signed(Credentials(client_id, secret, self._method), url, form)


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
        try:
            self.sign("", "")
        except (JoseError, ValueError, TypeError, AttributeError):
            problem = f"the private key is not one for {self._algorithm}"
        else:
            return
        raise ValueError(problem)

    def sign(self, url: str, form: str) -> Signed:
        now = int(self._clock())
        # New for each request: Authlib would keep the first jti in the claims it is given.
        method = PrivateKeyJWT(
            self._audience,
            claims={"iat": now, "exp": now + _ASSERTION_LIFETIME},
            headers={"kid": self._key_id} if self._key_id else {},
            alg=self._algorithm,
        )
        with warnings.catch_warnings():
            # RFC 9864 renamed "EdDSA", and servers still know no other name.
            warnings.simplefilter("ignore", SecurityWarning)
            return _signed(Credentials(self._client_id, self._key, method), url, form)


def _signed(credentials: Credentials, url: str, form: str) -> Signed:
    headers: dict[str, str] = {}
    _, headers, form = credentials.prepare("POST", url, headers, form)
    return headers, form


def _usual_algorithm(key: Key) -> str:
    if isinstance(key, ECKey):
        return _CURVE_ALGORITHMS.get(key.curve_name, "ES256")
    return "EdDSA" if isinstance(key, OKPKey) else "RS256"
