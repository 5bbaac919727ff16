"""The whole configuration file, as a table of tables."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from tokenvault_sidecar.config.access import AllLimitsTable, AuditTable
from tokenvault_sidecar.config.brands import BrandTable
from tokenvault_sidecar.config.callback import CallbackTable
from tokenvault_sidecar.config.callers import CallerTable
from tokenvault_sidecar.config.files import File, KekFilePath, PrivateFile, PrivateFilePath
from tokenvault_sidecar.config.kek_uri import KekSource, KekUri, Pkcs11Uri
from tokenvault_sidecar.config.problems import dotted
from tokenvault_sidecar.config.store import StoreTable
from tokenvault_sidecar.config.tables import Table
from tokenvault_sidecar.config.values import (
    Distinct,
    Duration,
    Flag,
    ListenAddress,
    Name,
    TcpAddress,
    Url,
    parse_duration,
)
from tokenvault_sidecar.core.limits import Limits
from tokenvault_sidecar.core.model import Brand
from tokenvault_sidecar.core.policy import Caller


class ServerTable(Table):
    """Where the vault is called: always by mutual TLS, on TCP and on unix sockets."""

    listen: Annotated[tuple[ListenAddress, ...], Distinct] = Field(
        description='Addresses: "host:port" (port 0: any free one) or "unix:/path".',
        min_length=1,
        examples=[["127.0.0.1:7443", "unix:/run/tokenvault/vault.sock"]],
    )
    workers: int = Field(
        default=1,
        description="Processes that serve, on the same addresses and the same store: one for each core at "
        "most. Several are started and watched by one more, and take Linux and addresses of TCP.",
        examples=[2],
        ge=1,
        le=64,
        strict=True,
    )
    certificate_file: File = Field(
        description="PEM file of the server's certificate chain, its own first. Read anew when it changes.",
        examples=["server.pem"],
    )
    private_key_file: PrivateFilePath = Field(
        description="PEM file of that certificate's private key, without passphrase.",
        examples=["server.key.pem"],
    )
    client_ca_file: File = Field(
        description="PEM file of the authorities whose client certificates are let in.",
        examples=["ca.pem"],
    )
    drain_timeout: Duration = Field(
        default=parse_duration("30s"),
        description="How long calls under way may take to end when stopping.",
        examples=["30s"],
    )
    connection_max_age: Duration = Field(
        default=parse_duration("1h"),
        description="When a connection is asked to close, so that none outlives its certificates for long.",
        examples=["1h"],
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least that is logged.", examples=["warning"]
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto",
        description="One JSON object a line, or text for people. auto: text on a terminal, else JSON.",
        examples=["json"],
    )


class KeysTable(Table):
    """What seals them."""

    kek_file: KekFilePath | None = Field(
        default=None,
        description="File with the key-encryption key: 32 random bytes in base64. Without it what is stored "
        "cannot be read. Either this or `kek` is required.",
        examples=["kek"],
    )
    kek: KekUri | None = Field(
        default=None,
        description="Where the key-encryption key is, as a URI: `file:` and a path, the same as `kek_file`; "
        "`pkcs11:` for a key on a token (RFC 7512); `aws-kms:` for one of AWS KMS.",
        examples=["file:kek"],
    )
    previous_kek_file: KekFilePath | None = Field(
        default=None,
        description="The key-encryption key of before, while it is being changed: opens what it wrapped, and "
        "wraps new keys until `tokenvault keys rewrap`.",
        examples=["old-kek"],
    )
    previous_kek: KekUri | None = Field(
        default=None, description="The same as a URI.", examples=["file:old-kek"]
    )
    rotate_after: Duration = Field(
        default=parse_duration("90d"),
        description="How long one data key seals, until a new one does and records are sealed anew by it.",
        examples=["90d"],
    )
    rotate_after_seals: int = Field(
        default=1_000_000_000,
        description="How many records it seals, about; never more than 2^32 (NIST SP 800-38D).",
        examples=[1000000000],
        ge=1,
        le=4_000_000_000,
        strict=True,
    )

    @property
    def keks(self) -> tuple[KekSource, ...]:
        """The KEK that wraps, and the one of before where there is one."""
        given = (self.kek or self.kek_file, self.previous_kek or self.previous_kek_file)
        return tuple(source for source in given if source is not None)


class RenewalTable(Table):
    """How consumers' access tokens are renewed."""

    margin: Duration = Field(
        default=parse_duration("60s"),
        description="How long before its end an access token is renewed; less for short-lived ones.",
        examples=["60s"],
    )
    redemption_deadline: Duration = Field(
        default=parse_duration("10s"),
        description="The longest one request to an authorization server may take.",
        examples=["10s"],
    )
    lease: Duration = Field(
        default=parse_duration("30s"),
        description="How long one process holds a grant to renew it. Longer than `redemption_deadline`.",
        examples=["30s"],
    )


class HousekeepingTable(Table):
    """What is over is deleted."""

    interval: Duration = Field(
        default=parse_duration("1m"), description="How often that is done.", examples=["1m"]
    )


class OpsTable(Table):
    """A port for probes and metrics: `/livez`, `/readyz`, `/metrics`, and nothing else.

    In plain HTTP, to anybody who reaches it: it tells no secret and no context, but names callers and brands.
    Without this table there is none.
    """

    listen: TcpAddress = Field(
        default="127.0.0.1:7480",
        description='Address: "host:port" (port 0: any free one).',
        examples=["127.0.0.1:7480"],
    )


class TracingTable(Table):
    """Traces, sent to an OpenTelemetry collector. Needs `pip install 'tokenvault-sidecar[otel]'`.

    Without this table there are none.
    """

    endpoint: Url = Field(
        description="Where to send them, by OTLP over HTTP; with https, or http to a loopback address.",
        examples=["https://collector.example.org/v1/traces"],
    )
    sample_ratio: float = Field(
        default=1.0,
        description="How many of the calls that come without a `traceparent` begin a trace that is kept: "
        "0 none, 1 all. Of the others the caller decides.",
        examples=[0.1],
        ge=0,
        le=1,
        strict=True,
    )


FIXED: Final = ("server", "store", "renewal", "audit", "ops", "callback", "tracing")
"""The tables that stay as they were when the sidecar started."""


class Config(Table):
    """A configuration that was checked as a whole.

    Durations are seconds, paths absolute or relative to the working
    directory, secrets read. `warnings` are sentences for the operator.
    """

    development: Flag = Field(
        default=False, description="Allows http to loopback addresses. Not for production.", examples=[True]
    )
    server: ServerTable
    store: StoreTable
    keys: KeysTable
    renewal: RenewalTable = RenewalTable()
    housekeeping: HousekeepingTable = HousekeepingTable()
    limits: AllLimitsTable = AllLimitsTable()
    audit: AuditTable | None = None
    ops: OpsTable | None = None
    callback: CallbackTable | None = None
    tracing: TracingTable | None = None
    brands: dict[Name, BrandTable] = Field(min_length=1)
    callers: dict[Name, CallerTable] = Field(min_length=1)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What works but should not stay so."""
        return tuple(
            f"{key}: {file.path} can be read or written by others (mode {file.mode:04o}): "
            "make it its owner's only, with chmod 600"
            for key, file in self._private_files()
            if file.exposed
        )

    def to_brands(self) -> tuple[Brand, ...]:
        """What the core knows of the brands."""
        return tuple(
            table.to_brand(brand, renewal_margin=self.renewal.margin) for brand, table in self.brands.items()
        )

    def to_callers(self) -> tuple[Caller, ...]:
        """What the core knows of the callers."""
        return tuple(table.to_caller(name) for name, table in self.callers.items())

    def to_limits(self) -> dict[str, Limits]:
        """Each caller's limits."""
        return {name: (table.limits or self.limits).to_limits() for name, table in self.callers.items()}

    @property
    def watched(self) -> tuple[Path, ...]:
        """Files it names that may change while it is in force; those of [server] are watched by TLS."""
        bearers = [caller.bearer for caller in self.callers.values() if caller.bearer]
        named = [
            getattr(table, key, None)
            for table in (*self.brands.values(), *bearers)
            for key in ("client_secret_file", "private_key_file", "jwks_file", "ca_file")
        ]
        if self.callback is not None:
            named += self.callback.tls or ()
        return tuple(getattr(file, "path", file) for file in named if file is not None)

    def _private_files(self) -> Iterator[tuple[str, PrivateFile]]:
        yield "server.private_key_file", self.server.private_key_file
        for key in ("kek_file", "kek", "previous_kek_file", "previous_kek"):
            source = getattr(self.keys, key)
            file = source.pin_file if isinstance(source, Pkcs11Uri) else source
            if isinstance(file, PrivateFile):
                yield f"keys.{key}", file
        if self.store.password_file is not None:
            yield "store.password_file", self.store.password_file
        if self.callback is not None and self.callback.private_key_file is not None:
            yield "callback.private_key_file", self.callback.private_key_file
        for brand, table in self.brands.items():
            for key in ("client_secret_file", "private_key_file"):
                if file := getattr(table, key):
                    yield dotted(("brands", brand, key)), file
