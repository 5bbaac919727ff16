"""Verifying an id token (OpenID Connect Core sections 3.1.3.7 and 12.2)."""

import hmac
import json
from collections.abc import Collection, Mapping

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import Key
from joserfc.jws import CompactSignature

from tokenvault_sidecar.adapters.jose import Keys, SignatureRegistry
from tokenvault_sidecar.adapters.metadata import SigningKeys
from tokenvault_sidecar.core.errors import InvalidIdToken
from tokenvault_sidecar.core.model import Secret
from tokenvault_sidecar.core.ports import IdClaims

_LEEWAY = 30.0
_LATEST = 2.0**40  # about the year 36,000: what is later is no time


class _Unsound(Exception):
    """What is wrong with the token, without its values."""


class IdTokenVerifier:
    """Verifies the id tokens one client gets from one issuer. Clocks may differ by 30 seconds."""

    def __init__(
        self, *, brand: str, issuer: str, client_id: str, algorithms: Collection[str], keys: SigningKeys
    ) -> None:
        self._brand = brand
        self._issuer = issuer
        self._client_id = client_id
        self._registry = SignatureRegistry(frozenset(algorithms))
        self._keys = keys

    async def verify(self, id_token: Secret, *, nonce: Secret | None, now: float) -> IdClaims:
        """The claims, once signature, issuer, audience, times and nonce hold.

        Raises InvalidIdToken; ServerUnavailable and ServerMisconfigured where
        the keys to verify it with cannot be had.
        """
        try:
            token = self._parse(id_token)
            if not self._is_signed_by(token, await self._keys.get()) and not self._is_signed_by(
                token, await self._keys.refetched()
            ):
                raise _Unsound("it is signed with a key the issuer does not publish")
            return self._check(_claims(token.payload), nonce=nonce, now=now)
        except _Unsound as unsound:
            problem = str(unsound)
        raise InvalidIdToken(f"the id token for brand {self._brand!r} is refused: {problem}")

    def _parse(self, id_token: Secret) -> CompactSignature:
        try:
            token = jws.extract_compact(id_token.reveal().encode(), registry=self._registry)
        except (JoseError, ValueError, TypeError, AttributeError, RecursionError):
            raise _Unsound("it is not a signed JWT in compact form") from None
        header = token.headers()
        if not isinstance(header, dict) or not isinstance(header.get("alg"), str):
            raise _Unsound("it is not a signed JWT in compact form")
        # No extension is understood here, so none may be critical (RFC 7515 section 4.1.11).
        if "crit" in header or "b64" in header:
            raise _Unsound("its header demands an extension")
        if header["alg"] not in (self._registry.allowed or ()):
            raise _Unsound("it is not signed with an allowed algorithm")
        return token

    def _is_signed_by(self, token: CompactSignature, keys: Keys) -> bool:
        """Whether one of the keys signed it; False where another set of keys may know better."""
        kid = token.headers().get("kid")
        named = [key for key in keys if kid is not None and key.kid == kid]
        # A key without an id is a candidate for every token: static PEM keys have none.
        candidates = named or [key for key in keys if kid is None or key.kid is None]
        if any(self._verifies(token, key) for key in candidates):
            return True
        if named:
            raise _Unsound("its signature does not verify")
        return False

    def _verifies(self, token: CompactSignature, key: Key) -> bool:
        try:
            return jws.validate_compact(token, key, registry=self._registry)
        except (JoseError, ValueError, TypeError):
            return False

    def _check(self, claims: Mapping[str, object], *, nonce: Secret | None, now: float) -> IdClaims:
        if claims.get("iss") != self._issuer:
            raise _Unsound("its iss is not the configured issuer")
        self._check_audience(claims)
        expires_at = _time(claims, "exp")
        if expires_at <= now - _LEEWAY:
            raise _Unsound("it has expired")
        if _time(claims, "iat") > now + _LEEWAY:
            raise _Unsound("its iat is in the future: compare the clocks")
        if "nbf" in claims and _time(claims, "nbf") > now + _LEEWAY:
            raise _Unsound("its nbf is in the future: compare the clocks")
        if nonce is not None:
            told = claims.get("nonce")
            if not isinstance(told, str) or not hmac.compare_digest(_octets(told), _octets(nonce.reveal())):
                raise _Unsound("its nonce is not the one sent")
        subject = claims.get("sub")
        if not isinstance(subject, str) or not subject.isascii() or not 0 < len(subject) <= 255:
            raise _Unsound("its sub is missing or not 1 to 255 ASCII characters")
        return IdClaims(subject=subject, expires_at=expires_at)

    def _check_audience(self, claims: Mapping[str, object]) -> None:
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if self._client_id not in audiences:
            raise _Unsound("its aud does not name this client")
        if len(audiences) > 1 and "azp" not in claims:
            raise _Unsound("its aud names several and it has no azp")
        if "azp" in claims and claims["azp"] != self._client_id:
            raise _Unsound("its azp is another client")


def _claims(payload: bytes) -> Mapping[str, object]:
    try:
        claims = json.loads(payload)
    except (ValueError, RecursionError):
        claims = None
    if not isinstance(claims, dict):
        raise _Unsound("its payload is not a JSON object")
    return claims


def _time(claims: Mapping[str, object], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LATEST:
        raise _Unsound(f"its {name} is missing or not a time")
    return float(value)


def _octets(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
