"""Asking an authorization server for this service's own access token (RFC 6749 section 4.4).

The one module that needs what the extra `client-credentials` installs.
"""

import base64
import json
import ssl
import time
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote_plus, urlencode

import grpc
import httpx2
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from joserfc import jws
from joserfc.jwa import JWSAlgModel
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from tokenvault._keeper import Issued
from tokenvault.errors import CredentialsRefused, CredentialsUnavailable, TokenVaultError

_LARGEST = 64 * 1024
_LONGEST = 2.0**32  # seconds: what is longer is no span
_ASSERTION_LIFETIME = 60
_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_ERRORS = frozenset(  # RFC 6749 section 5.2, RFC 8707 section 2: what else is said is not repeated
    {"invalid_request", "invalid_client", "unauthorized_client", "unsupported_grant_type"}
    | {"invalid_scope", "invalid_target"}
)


class ClientSecretBasic:
    """client_secret_basic (RFC 6749 section 2.3.1)."""

    def __init__(self, client_id: str, secret: str) -> None:
        pair = f"{quote_plus(client_id)}:{quote_plus(secret)}"
        self._header = f"Basic {base64.b64encode(pair.encode()).decode()}"

    def sign(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Headers and form fields that say who asks."""
        return {"Authorization": self._header}, {}


class PrivateKeyJwt:
    """private_key_jwt: an assertion of a minute's life, anew for each request (RFC 7523).

    Raises ValueError where `private_key` is no PEM private key, RSA, EC or Ed25519.
    """

    def __init__(self, client_id: str, private_key: str, *, key_id: str | None, audience: str) -> None:
        self._client_id = client_id
        self._key, algorithm = _signing_key(private_key)
        self._header = {"alg": algorithm, "typ": "JWT", **({"kid": key_id} if key_id else {})}
        self._audience = audience

    def sign(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Headers and form fields that say who asks."""
        now = int(time.time())
        claims = {
            "iss": self._client_id,
            "sub": self._client_id,
            "aud": self._audience,
            "iat": now,
            "exp": now + _ASSERTION_LIFETIME,
            "jti": str(uuid.uuid4()),
        }
        assertion = jws.serialize_compact(self._header, json.dumps(claims), self._key, registry=_Registry())
        return {}, {"client_assertion_type": _ASSERTION_TYPE, "client_assertion": assertion}


class TokenEndpoint:
    """Asks for tokens; `form` is what it always sends, `timeout` in seconds is for one request."""

    def __init__(
        self,
        url: str,
        authentication: ClientSecretBasic | PrivateKeyJwt,
        *,
        form: Mapping[str, str],
        tls: ssl.SSLContext,
        timeout: float,
    ) -> None:
        self._url = url
        self._authentication = authentication
        self._form = form
        self._tls = tls
        self._timeout = timeout

    def ask(self) -> Issued:
        """A new token. Raises CredentialsUnavailable, CredentialsRefused."""
        headers, proof = self._authentication.sign()
        try:
            status, head, body = self._post(dict(headers), urlencode({**self._form, **proof}))
        except httpx2.HTTPError as error:
            trusted = not _is_about_trust(error)
            problem = "gave no answer" if trusted else "presents a certificate that is not trusted: set ca"
        else:
            return _read(status, head, body, url=self._url)
        raise _unavailable(f"the token endpoint {self._url} {problem}")

    def _post(self, headers: dict[str, str], form: str) -> tuple[int, httpx2.Headers, bytes]:
        until = time.monotonic() + self._timeout
        headers |= {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        # A client for each request: they are minutes apart, and nothing is left open in between.
        with (
            httpx2.Client(verify=self._tls, timeout=self._timeout, follow_redirects=False) as client,
            client.stream("POST", self._url, headers=headers, content=form) as response,
        ):
            body = b""
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > _LARGEST or time.monotonic() > until:
                    raise httpx2.ReadTimeout("too long an answer")
            return response.status_code, response.headers, body


class _Registry(jws.JWSRegistry):
    """Signs without a warning of the name "EdDSA", which RFC 9864 replaced and servers still want."""

    def get_alg(self, name: str) -> JWSAlgModel:
        return self.algorithms[name]


def _signing_key(pem: str) -> tuple[Key, str]:
    try:
        match load_pem_private_key(pem.encode(), password=None):
            case rsa.RSAPrivateKey():
                return RSAKey.import_key(pem), "RS256"
            case ec.EllipticCurvePrivateKey() as key if key.curve.name in _CURVES:
                return ECKey.import_key(pem), _CURVES[key.curve.name]
            case ed25519.Ed25519PrivateKey():
                return OKPKey.import_key(pem), "EdDSA"
    except (ValueError, TypeError, UnsupportedAlgorithm):
        pass
    raise ValueError("private_key: not an unencrypted PEM private key, RSA, EC or Ed25519")


def _read(status: int, headers: httpx2.Headers, body: bytes, *, url: str) -> Issued:
    answer = _json_object(body)
    token, kind = answer.get("access_token"), answer.get("token_type")
    if 200 <= status < 300 and isinstance(token, str) and token:
        if isinstance(kind, str) and kind.lower() == "bearer" and token.isascii() and token.isprintable():
            return Issued(token, _seconds(answer.get("expires_in")))
        raise _refused(f"the token endpoint {url} gave a token that is no bearer token")
    if status in (408, 429) or status >= 500:
        wait = _seconds(headers.get("Retry-After"))
        raise _unavailable(f"the token endpoint {url} cannot answer now (status {status})", wait)
    error = answer.get("error")
    said = error if isinstance(error, str) and error in _ERRORS else "no known error"
    raise _refused(
        f"the token endpoint {url} gave no token (status {status}, {said}): compare client_id, secret or "
        "key, scope, audience and resource with the client's registration"
    )


def _json_object(body: bytes) -> Mapping[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _seconds(said: object) -> float | None:
    """A span, where it is one; some servers send expires_in as a string."""
    number = float(said) if isinstance(said, str) and said.isascii() and said.isdigit() else said
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < _LONGEST:
        return None
    return float(number)


def _unavailable(message: str, retry_after: float | None = None) -> TokenVaultError:
    return CredentialsUnavailable(message, code=grpc.StatusCode.UNAVAILABLE, retry_after=retry_after)


def _refused(message: str) -> TokenVaultError:
    return CredentialsRefused(message, code=grpc.StatusCode.UNAUTHENTICATED)


def _is_about_trust(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
