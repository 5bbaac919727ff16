"""Verifying an id token (OpenID Connect Core sections 3.1.3.7 and 12.2).

Authlib judges the claims and joserfc the signature; ours is which key may
sign, what is no time or subject, and an error without the token's values.
"""

import json
from collections.abc import Collection, Mapping

from authlib.oidc.core import CodeIDToken
from joserfc import jws
from joserfc.errors import ClaimError, ExpiredTokenError, InvalidClaimError, JoseError, MissingClaimError
from joserfc.jwk import Key
from joserfc.jws import CompactSignature

from tokenvault_sidecar.adapters.jose import Keys, SignatureRegistry
from tokenvault_sidecar.adapters.metadata import SigningKeys
from tokenvault_sidecar.core.errors import InvalidIdToken
from tokenvault_sidecar.core.model import Secret
from tokenvault_sidecar.core.ports import IdClaims

_LEEWAY = 30.0
_LATEST = 2.0**40  # about the year 36,000: what is later is no time
_CLAIMS = ("iss", "sub", "aud", "azp", "exp", "iat", "nbf", "nonce")
_FAULTS: Mapping[tuple[type[ClaimError], str], str] = {
    (InvalidClaimError, "iss"): "its iss is not the configured issuer",
    (InvalidClaimError, "aud"): "its aud does not name this client",
    (MissingClaimError, "azp"): "its aud names several and it has no azp",
    (InvalidClaimError, "azp"): "its azp is another client",
    (ExpiredTokenError, "exp"): "it has expired",
    (InvalidClaimError, "iat"): "its iat is in the future: compare the clocks",
    (InvalidClaimError, "nbf"): "its nbf is in the future: compare the clocks",
    (InvalidClaimError, "nonce"): "its nonce is not the one sent",
}


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

    def _check(self, told: Mapping[str, object], *, nonce: Secret | None, now: float) -> IdClaims:
        # Only what is used: no login fails for the form of another claim.
        used = {name: told[name] for name in _CLAIMS if name in told}
        for name in ("exp", "iat", "nbf"):
            if name in used and not _is_time(used[name]):
                raise _Unsound(f"its {name} is not a time")
        options: dict[str, dict[str, object]] = {
            "iss": {"value": self._issuer},
            "aud": {"value": self._client_id},
            "azp": {"value": self._client_id},
        }
        params = {"client_id": self._client_id}
        if nonce is not None:
            # Both: the option alone takes a list that holds it, the parameter alone skips an empty one.
            params["nonce"] = nonce.reveal()
            options["nonce"] = {"essential": True, "value": nonce.reveal()}
        claims = CodeIDToken(used, {}, options, params)
        try:
            claims.validate(now, _LEEWAY)
        except ClaimError as error:
            problem = _FAULTS.get((type(error), error.claim), f"its {error.claim} is missing or unusable")
            raise _Unsound(problem) from None
        subject = claims["sub"]
        if not subject.isascii() or not 0 < len(subject) <= 255:
            raise _Unsound("its sub is not 1 to 255 ASCII characters")
        return IdClaims(subject=subject, expires_at=float(claims["exp"]))


def _claims(payload: bytes) -> Mapping[str, object]:
    try:
        claims = json.loads(payload)
    except (ValueError, RecursionError):
        claims = None
    if not isinstance(claims, dict):
        raise _Unsound("its payload is not a JSON object")
    return claims


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _LATEST
