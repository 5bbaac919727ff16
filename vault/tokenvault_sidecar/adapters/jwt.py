"""Signed JWTs: reading one, and whether a key of its issuer signed it (RFC 7515, RFC 7519, RFC 8725).

Cryptography is joserfc's; ours is which key may sign, and an error without the
token's values. What the claims must say differs: id_token and bearer judge it.
"""

import json
from collections.abc import Collection, Mapping

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import Key
from joserfc.jws import CompactSignature

from tokenvault_sidecar.adapters.jose import Keys, SignatureRegistry
from tokenvault_sidecar.adapters.metadata import SigningKeys

LEEWAY = 30
"""Seconds by which clocks may differ."""

_LATEST = 2.0**40  # about the year 36,000: what is later is no time


class Unsound(Exception):
    """What is wrong with a token, without its values."""


class JwtVerifier:
    """Verifies the signatures of one issuer's JWTs, by its keys and with these algorithms only."""

    def __init__(self, *, algorithms: Collection[str], keys: SigningKeys) -> None:
        self._registry = SignatureRegistry(frozenset(algorithms))
        self._keys = keys

    def parse(self, token: str) -> CompactSignature:
        """The token, of which nothing is verified yet. Raises Unsound."""
        try:
            parsed = jws.extract_compact(token.encode(), registry=self._registry)
        except (JoseError, ValueError, TypeError, AttributeError, RecursionError):
            raise Unsound("it is not a signed JWT in compact form") from None
        header = parsed.headers()
        if not isinstance(header, dict) or not isinstance(header.get("alg"), str):
            raise Unsound("it is not a signed JWT in compact form")
        # No extension is understood here, so none may be critical (RFC 7515 section 4.1.11).
        if "crit" in header or "b64" in header:
            raise Unsound("its header demands an extension")
        if header["alg"] not in (self._registry.allowed or ()):
            raise Unsound("it is not signed with an allowed algorithm")
        return parsed

    async def claims(self, token: CompactSignature) -> Mapping[str, object]:
        """What the token says, once its signature holds. Raises Unsound.

        Keys are the issuer's only: none that the header brings or points to.
        Raises ServerUnavailable and ServerMisconfigured where they cannot be had.
        """
        if not self._is_signed_by(token, await self._keys.get()) and not self._is_signed_by(
            token, await self._keys.refetched()
        ):
            raise Unsound("it is signed with a key the issuer does not publish")
        return _json_object(token.payload)

    def _is_signed_by(self, token: CompactSignature, keys: Keys) -> bool:
        """Whether one of the keys signed it; False where another set of keys may know better."""
        kid = token.headers().get("kid")
        named = [key for key in keys if kid is not None and key.kid == kid]
        # A key without an id is a candidate for every token: static PEM keys have none.
        candidates = named or [key for key in keys if kid is None or key.kid is None]
        if any(self._verifies(token, key) for key in candidates):
            return True
        if named:
            raise Unsound("its signature does not verify")
        return False

    def _verifies(self, token: CompactSignature, key: Key) -> bool:
        try:
            return jws.validate_compact(token, key, registry=self._registry)
        except (JoseError, ValueError, TypeError):
            return False


def check_times(claims: Mapping[str, object]) -> None:
    """That what is there of exp, iat and nbf is a time (RFC 7519 section 2, NumericDate). Raises Unsound."""
    for name in ("exp", "iat", "nbf"):
        if name in claims and not _is_time(claims[name]):
            raise Unsound(f"its {name} is not a time")


def _json_object(payload: bytes) -> Mapping[str, object]:
    try:
        claims = json.loads(payload)
    except (ValueError, RecursionError):
        claims = None
    if not isinstance(claims, dict):
        raise Unsound("its payload is not a JSON object")
    return claims


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _LATEST
