"""`[brands.ID]`: one OAuth client registration each."""

from typing import Annotated, Literal

from pydantic import Field

from tokenvault_sidecar.config.callback import PageTable
from tokenvault_sidecar.config.files import File, JwksFilePath, SecretFilePath, SigningKeyFilePath
from tokenvault_sidecar.config.tables import Table
from tokenvault_sidecar.config.values import Distinct, Duration, Flag, Issuer, Scope, Url, parse_duration
from tokenvault_sidecar.core.model import Brand, ContextKind, ContextSettings, Secret

ClientAuth = Literal["client_secret_basic", "client_secret_post", "private_key_jwt", "none"]
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"
]
CallerParameter = Literal[
    "prompt", "ui_locales", "acr_values", "login_hint", "max_age", "display", "claims_locales"
]

Scopes = Annotated[tuple[Scope, ...], Field(min_length=1), Distinct]


class ConsumerTable(Table):
    """Delegation by authenticated consumers: tokens are kept under the consumer's id and renewed."""

    scopes: Scopes = Field(
        description="Scopes to ask for where the caller names none.",
        examples=[["openid", "offline_access"]],
    )
    allowed_scopes: Scopes | None = Field(
        default=None,
        description="All scopes a caller may ask for. Unset: those of `scopes`.",
        examples=[["openid", "offline_access", "orders:read"]],
    )
    session_absolute: Duration = Field(
        default=parse_duration("12h"),
        description="How long after the delegation the grant ends, however much it is used.",
        examples=["12h"],
    )
    session_idle: Duration = Field(
        default=parse_duration("30m"),
        description="How long after the last read that keeps the session alive the grant ends.",
        examples=["30m"],
    )


class ConversationTable(Table):
    """Delegation within one unauthenticated conversation: the access token alone is kept, never renewed."""

    scopes: Scopes = Field(
        description="Scopes to ask for where the caller names none.", examples=[["orders:read"]]
    )
    allowed_scopes: Scopes | None = Field(
        default=None,
        description="All scopes a caller may ask for. Unset: those of `scopes`.",
        examples=[["orders:read", "profile"]],
    )
    max_lifetime: Duration = Field(
        default=parse_duration("1h"),
        description="The longest an access token is kept, whatever its own life.",
        examples=["1h"],
    )


class BrandTable(Table):
    """A brand: its authorization server, this client's registration there, and how consumers delegate.

    The authorization server's metadata is discovered from `issuer` (RFC 8414,
    OpenID Connect Discovery); what is given here wins. A kind of context is
    switched on by its table being there; at least one must be.
    """

    issuer: Issuer = Field(
        description="The authorization server's issuer, exactly as its metadata has it (RFC 8414 section 2).",
        examples=["https://login.acme.example"],
    )
    authorization_endpoint: Url | None = Field(
        default=None,
        description="Where consumers log in. Given together with `token_endpoint`, nothing is discovered.",
        examples=["https://login.acme.example/authorize"],
    )
    token_endpoint: Url | None = Field(
        default=None,
        description="Where codes and refresh tokens are redeemed. See `authorization_endpoint`.",
        examples=["https://login.acme.example/token"],
    )
    revocation_endpoint: Url | None = Field(
        default=None,
        description="Where tokens are revoked (RFC 7009). Unset: where the metadata says, if anywhere.",
        examples=["https://login.acme.example/revoke"],
    )
    jwks_uri: Url | None = Field(
        default=None,
        description="Where the id token's keys are published. Unset: where the metadata says.",
        examples=["https://login.acme.example/jwks"],
    )
    jwks_file: JwksFilePath | None = Field(
        default=None,
        description="File with the id token's keys instead, a JWK set of public keys (RFC 7517).",
        examples=["acme-jwks.json"],
    )
    sends_iss: Flag | None = Field(
        default=None,
        description="Whether every authorization response carries `iss` (RFC 9207): one without is then "
        "refused. Unset: what the metadata says, else no.",
        examples=[True],
    )
    ca_file: File | None = Field(
        default=None,
        description="PEM file of the authorities trusted for the authorization server's certificate. "
        "Unset: the system's.",
        examples=["acme-ca.pem"],
    )
    client_id: str = Field(
        description="This client's id at the authorization server.", min_length=1, examples=["tokenvault"]
    )
    client_auth: ClientAuth = Field(
        default="client_secret_basic",
        description="How this client authenticates (OpenID Connect Core section 9).",
        examples=["private_key_jwt"],
    )
    client_secret_file: SecretFilePath | None = Field(
        default=None,
        description="File with the client secret on one line. For `client_secret_basic` and "
        "`client_secret_post`, which need it.",
        examples=["secrets/acme-client-secret"],
    )
    private_key_file: SigningKeyFilePath | None = Field(
        default=None,
        description="PEM file of the key that signs client assertions, without passphrase. For "
        "`private_key_jwt`, which needs it (RFC 7523).",
        examples=["secrets/acme-client-key.pem"],
    )
    private_key_id: str | None = Field(
        default=None,
        description="The `kid` of that key. Unset: assertions carry none.",
        min_length=1,
        examples=["2026-11"],
    )
    redirect_uris: Annotated[tuple[Url, ...], Distinct] = Field(
        description="The redirect URIs registered there, compared character by character; the first is the "
        "default. https, or in development http to loopback.",
        min_length=1,
        examples=[["https://bots.example.com/delegated"]],
    )
    id_token_algorithms: Annotated[tuple[Algorithm, ...], Distinct] = Field(
        default=("RS256", "PS256", "ES256", "EdDSA"),
        description="Signature algorithms accepted on id tokens.",
        min_length=1,
        examples=[["ES256"]],
    )
    authorization_parameters: dict[str, str] = Field(
        default={},
        description="Parameters of every authorization request. A caller can replace those it may add.",
        examples=[{"audience": "orders"}],
    )
    allowed_authorization_parameters: Annotated[tuple[CallerParameter, ...], Distinct] = Field(
        default=(),
        description="Parameters a caller may add to an authorization request.",
        examples=[["prompt", "ui_locales", "login_hint"]],
    )
    delegation_lifetime: Duration = Field(
        default=parse_duration("10m"),
        description="How long a consumer has to follow a challenge's link and log in; and after that, to "
        "type the confirmation code, where there is one.",
        examples=["10m"],
    )
    confirmation_code: Flag = Field(
        default=False,
        description="Whether a consumer is shown a code after login, to be typed into the conversation: the "
        "grant is locked until the caller brings it by ConfirmDelegation. Against links that are sent on to "
        "somebody else.",
        examples=[True],
    )
    consumer: ConsumerTable | None = None
    conversation: ConversationTable | None = None
    page: PageTable = PageTable()

    @property
    def client_secret(self) -> Secret | None:
        """What `client_secret_file` held, without the line's end."""
        return self.client_secret_file.secret if self.client_secret_file else None

    @property
    def private_key(self) -> Secret | None:
        """What `private_key_file` held: PEM."""
        return self.private_key_file.secret if self.private_key_file else None

    @property
    def discovers(self) -> bool:
        """Whether the metadata is to be fetched, as no endpoints are given."""
        return self.authorization_endpoint is None

    @property
    def contexts(self) -> dict[ContextKind, ContextSettings]:
        """The kinds of context that are switched on."""
        found: dict[ContextKind, ContextSettings] = {}
        if table := self.consumer:
            found[ContextKind.CONSUMER] = ContextSettings(
                scopes=table.scopes,
                allowed_scopes=frozenset(table.allowed_scopes or table.scopes),
                session_absolute=table.session_absolute,
                session_idle=table.session_idle,
            )
        if other := self.conversation:
            found[ContextKind.CONVERSATION] = ContextSettings(
                scopes=other.scopes,
                allowed_scopes=frozenset(other.allowed_scopes or other.scopes),
                max_lifetime=other.max_lifetime,
            )
        return found

    def to_brand(self, brand: str, *, renewal_margin: float) -> Brand:
        """What the core knows of this brand."""
        return Brand(
            id=brand,
            redirect_uris=self.redirect_uris,
            contexts=self.contexts,
            delegation_lifetime=self.delegation_lifetime,
            renewal_margin=renewal_margin,
            authorization_parameters=self.authorization_parameters,
            allowed_parameters=frozenset(self.allowed_authorization_parameters),
            confirms=self.confirmation_code,
        )
