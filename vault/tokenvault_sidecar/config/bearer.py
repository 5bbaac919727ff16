"""`[callers.NAME.bearer]`: the access token a caller shows beside its certificate."""

from typing import Annotated

from pydantic import Field

from tokenvault_sidecar.config.brands import Algorithm, Scopes
from tokenvault_sidecar.config.files import File, JwksFilePath
from tokenvault_sidecar.config.tables import Table
from tokenvault_sidecar.config.values import Distinct, Flag, Issuer, Url


class BearerTable(Table):
    """What a caller that is a client of an authorization server must show besides its certificate.

    With this table each of its calls needs an OAuth 2.0 access token (RFC
    9068) in its `authorization` metadata. The keys it is verified with are
    discovered from the issuer's metadata, unless `jwks_uri` or `jwks_file` says
    where they are.
    """

    issuer: Issuer = Field(
        description="Who issues the tokens, exactly as their `iss` has it.",
        examples=["https://login.acme.example"],
    )
    audience: str = Field(
        description="What their `aud` must hold: this vault's name at the issuer.",
        min_length=1,
        examples=["https://vault.example.com"],
    )
    scopes: Scopes = Field(
        default=("delegated.token.read.external",),
        description="Scopes that must all be granted.",
        examples=[["delegated.token.read.external"]],
    )
    client_ids: Annotated[tuple[str, ...], Field(min_length=1), Distinct] | None = Field(
        default=None,
        description="Clients whose tokens are accepted, by `client_id`. Unset: any client of the issuer.",
        examples=[["acme-orders"]],
    )
    require_certificate_binding: Flag = Field(
        default=False,
        description="Whether tokens must be bound to this caller's certificate (`cnf`, RFC 8705 section "
        "3.1). One that is bound must match in any case.",
        examples=[True],
    )
    algorithms: Annotated[tuple[Algorithm, ...], Distinct] = Field(
        default=("RS256", "PS256", "ES256", "EdDSA"),
        description="Signature algorithms accepted.",
        min_length=1,
        examples=[["ES256"]],
    )
    jwks_uri: Url | None = Field(
        default=None,
        description="Where the issuer's keys are published. Unset: where its metadata says.",
        examples=["https://login.acme.example/jwks"],
    )
    jwks_file: JwksFilePath | None = Field(
        default=None,
        description="File with the issuer's keys instead, a JWK set of public keys (RFC 7517).",
        examples=["acme-jwks.json"],
    )
    ca_file: File | None = Field(
        default=None,
        description="PEM file of the authorities trusted for the issuer's certificate. Unset: the system's.",
        examples=["acme-ca.pem"],
    )
