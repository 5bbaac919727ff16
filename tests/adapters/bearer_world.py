"""Access tokens as an issuer makes them, and as a forger would; certificates they are bound to."""

import hashlib
import json
import ssl
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from joserfc import jws
from joserfc.jwk import Key
from joserfc.jws import JWSRegistry

from tests.authserver.scripted import ScriptedServer
from tokenvault_sidecar.adapters.bearer import BearerSettings, BearerVerifier
from tokenvault_sidecar.devkit import DevelopmentCA

AUDIENCE = "https://vault.example"
SCOPE = "delegated.token.read.external"
_ALGORITHMS = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}

_ca = DevelopmentCA.create("bearer tests")
CERTIFICATE = _ca.issue(name="shop", uris=["spiffe://test/shop"]).certificate_pem
OTHER_CERTIFICATE = _ca.issue(name="other", uris=["spiffe://test/other"]).certificate_pem


class Clock:
    """A clock a test moves."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def bound_to(certificate: bytes) -> dict[str, str]:
    """The cnf claim (RFC 8705 section 3.1)."""
    der = ssl.PEM_cert_to_DER_cert(certificate.decode())
    return {"x5t#S256": urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()}


def access_token(
    server: ScriptedServer,
    *,
    key: Key | None = None,
    header: Mapping[str, object] | None = None,
    drop: Sequence[str] = (),
    **claims: object,
) -> str:
    """One that is good but for `header` and `claims`, which replace, and `drop`, which removes."""
    at = int(time.time())
    payload = {
        "iss": server.issuer,
        "aud": AUDIENCE,
        "sub": "shop-client",
        "client_id": "shop-client",
        "scope": f"other {SCOPE}",
        "iat": at,
        "exp": at + 300,
        "jti": "jti-1",
        **claims,
    }
    payload = {name: value for name, value in payload.items() if name not in drop}
    return signed(payload, key or server.keys[-1], {"typ": "at+jwt", **(header or {})})


def signed(payload: Mapping[str, object], key: Key, header: Mapping[str, object]) -> str:
    """A JWT, whatever it says; a header parameter of None is left out."""
    full = {"alg": _ALGORITHMS[key.key_type], "kid": key.kid, **header}
    full = {name: value for name, value in full.items() if value is not None}
    signer = None if full["alg"] == "none" else key
    registry = _Anything(strict_check_header=False)
    return jws.serialize_compact(full, json.dumps(payload).encode(), signer, registry=registry)


class _Anything(JWSRegistry):
    """Signs with whatever a forger would."""

    def check_header(self, header: Mapping[str, object]) -> None:
        """Let it say anything."""

    def get_alg(self, name: str):  # type: ignore[no-untyped-def]  # the library's return type
        return self.algorithms[name]


def verifier_of(server: ScriptedServer, **given: Any) -> BearerVerifier:
    """A verifier of this server's tokens; `given` are settings, and its clocks."""
    clocks = {name: given.pop(name) for name in ("clock", "monotonic") if name in given}
    settings = BearerSettings(**{"issuer": server.issuer, "audience": AUDIENCE, "development": True, **given})
    return BearerVerifier(settings, caller="shop", **clocks)
