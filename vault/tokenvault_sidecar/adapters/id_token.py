"""Verifying an id token (OpenID Connect Core sections 3.1.3.7 and 12.2).

Authlib judges the claims; ours is what is no time or subject, and an error
without the token's values.
"""

from collections.abc import Collection, Mapping

from authlib.oidc.core import CodeIDToken
from joserfc.errors import ClaimError, ExpiredTokenError, InvalidClaimError, MissingClaimError

from tokenvault_sidecar.adapters.jwt import LEEWAY, JwtVerifier, Unsound, check_times
from tokenvault_sidecar.adapters.metadata import SigningKeys
from tokenvault_sidecar.core.errors import InvalidIdToken
from tokenvault_sidecar.core.model import Secret
from tokenvault_sidecar.core.ports import IdClaims

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


class IdTokenVerifier:
    """Verifies the id tokens one client gets from one issuer. Clocks may differ by 30 seconds."""

    def __init__(
        self, *, brand: str, issuer: str, client_id: str, algorithms: Collection[str], keys: SigningKeys
    ) -> None:
        self._brand = brand
        self._issuer = issuer
        self._client_id = client_id
        self._jwt = JwtVerifier(algorithms=algorithms, keys=keys)

    async def verify(self, id_token: Secret, *, nonce: Secret | None, now: float) -> IdClaims:
        """The claims, once signature, issuer, audience, times and nonce hold.

        Raises InvalidIdToken; ServerUnavailable and ServerMisconfigured where
        the keys to verify it with cannot be had.
        """
        try:
            claims = await self._jwt.claims(self._jwt.parse(id_token.reveal()))
            return self._check(claims, nonce=nonce, now=now)
        except Unsound as unsound:
            problem = str(unsound)
        raise InvalidIdToken(f"the id token for brand {self._brand!r} is refused: {problem}")

    def _check(self, told: Mapping[str, object], *, nonce: Secret | None, now: float) -> IdClaims:
        # Only what is used: no login fails for the form of another claim.
        used = {name: told[name] for name in _CLAIMS if name in told}
        check_times(used)
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
            claims.validate(now, LEEWAY)
        except ClaimError as error:
            problem = _FAULTS.get((type(error), error.claim), f"its {error.claim} is missing or unusable")
            raise Unsound(problem) from None
        subject = claims["sub"]
        if not subject.isascii() or not 0 < len(subject) <= 255:
            raise Unsound("its sub is not 1 to 255 ASCII characters")
        return IdClaims(subject=subject, expires_at=float(claims["exp"]))
