"""The OAuth clients the authorization server knows: what a brand registered there."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from joserfc.jwk import ECKey

REDIRECT_URI = "https://brand.example/callback"
"""Never called: the headless consumer stops there."""


@dataclass(frozen=True, slots=True)
class Registration:
    """One OAuth client registration (RFC 7591 section 2).

    `secret` must be printable ASCII. `private_key` (PEM, an EC P-256 key) is
    what private_key_jwt signs with; the server gets the public half only.
    `metadata` is added as it is.
    """

    client_id: str
    secret: str | None = field(default=None, repr=False)
    auth_method: str = "client_secret_basic"
    redirect_uris: tuple[str, ...] = (REDIRECT_URI,)
    grant_types: tuple[str, ...] = ("authorization_code", "refresh_token")
    private_key: str | None = field(default=None, repr=False)
    metadata: Mapping[str, object] = field(default_factory=dict)

    def as_metadata(self) -> dict[str, object]:
        """The registration as the server reads it."""
        metadata: dict[str, object] = {
            "client_id": self.client_id,
            "token_endpoint_auth_method": self.auth_method,
            "redirect_uris": list(self.redirect_uris),
            "response_types": ["code"] if "authorization_code" in self.grant_types else [],
            "grant_types": list(self.grant_types),
        }
        if self.secret is not None:
            metadata["client_secret"] = self.secret
        if self.private_key is not None:
            public = ECKey.import_key(self.private_key).as_dict(private=False)
            metadata["jwks"] = {"keys": [{**public, "use": "sig", "alg": "ES256"}]}
            metadata["token_endpoint_auth_signing_alg"] = "ES256"
        return metadata | dict(self.metadata)


BASIC = Registration("brand-basic", secret="p%rc+nt&amp:co/lon =sp ace")
"""HTTP Basic, with a secret that only works form-encoded (RFC 6749 section 2.3.1)."""

POST = Registration("brand-post", secret="post secret %+&:/=", auth_method="client_secret_post")

PRIVATE_KEY_JWT = Registration(
    "brand-jwt",
    auth_method="private_key_jwt",
    private_key=ECKey.generate_key("P-256").as_pem(private=True).decode(),
)

PUBLIC = Registration("brand-public", auth_method="none")

ES256 = Registration("brand-es256", secret="es256-secret", metadata={"id_token_signed_response_alg": "ES256"})
"""Its id tokens are signed with ES256; everybody else's with RS256."""

SERVICE = Registration(
    "brand-service", secret="service-secret", redirect_uris=(), grant_types=("client_credentials",)
)
"""A brand's own service: client credentials only."""

ALL = (BASIC, POST, PRIVATE_KEY_JWT, PUBLIC, ES256, SERVICE)
