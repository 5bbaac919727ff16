"""From the configuration's tables to what the adapters and the guard take."""

from collections.abc import Mapping

from tokenvault_sidecar.adapters.audit import AuditLog, audit_key
from tokenvault_sidecar.adapters.client_auth import ClientAuth
from tokenvault_sidecar.adapters.oauth import OAuthServer, ServerSettings
from tokenvault_sidecar.api.tls import TlsFiles
from tokenvault_sidecar.config import BrandTable, Config
from tokenvault_sidecar.core.ports import Clock
from tokenvault_sidecar.core.renewal import RenewalSettings

_PATIENCE = 5.0
"""Seconds a caller waits for a redemption beyond its deadline: for the store, and for a peer."""


def authorization_servers(
    config: Config,
    clock: Clock,
    *,
    before: Config | None = None,
    kept: Mapping[str, OAuthServer] | None = None,
) -> dict[str, OAuthServer]:
    """Each brand's server; of `kept`, those whose brand is as it was `before`. Raises ValueError."""
    servers: dict[str, OAuthServer] = {}
    for brand, table in config.brands.items():
        same = before is not None and before.brands.get(brand) == table
        old = (kept or {}).get(brand) if same else None
        servers[brand] = old or OAuthServer(_server_settings(brand, table, config), brand=brand, clock=clock)
    return servers


def renewal_settings(config: Config) -> RenewalSettings:
    renewal = config.renewal
    return RenewalSettings(
        deadline=renewal.redemption_deadline,
        lease=renewal.lease,
        patience=renewal.redemption_deadline + _PATIENCE,
    )


def tls_files(config: Config) -> TlsFiles:
    server = config.server
    return TlsFiles(server.certificate_file, server.private_key_file.path, server.client_ca_file)


def audit_log(config: Config, kek: bytes) -> AuditLog | None:
    """The audit log, opened, where there is to be one. Raises AuditError."""
    if config.audit is None:
        return None
    return AuditLog(
        config.audit.path,
        audit_key(kek),
        fail_closed=config.audit.fail_closed,
        max_bytes=config.audit.rotate_bytes,
    )


def _server_settings(brand: str, table: BrandTable, config: Config) -> ServerSettings:
    try:
        return ServerSettings(
            issuer=table.issuer,
            client_id=table.client_id,
            client_auth=ClientAuth(table.client_auth),
            client_secret=table.client_secret,
            private_key=table.private_key,
            private_key_id=table.private_key_id,
            authorization_endpoint=table.authorization_endpoint,
            token_endpoint=table.token_endpoint,
            revocation_endpoint=table.revocation_endpoint,
            jwks_uri=table.jwks_uri,
            static_keys=table.jwks_file.text if table.jwks_file else None,
            id_token_algorithms=table.id_token_algorithms,
            sends_iss=table.sends_iss,
            ca_file=table.ca_file,
            development=config.development,
            deadline=config.renewal.redemption_deadline,
        )
    except ValueError as problem:
        raise ValueError(f"brands.{brand}.{problem}") from None
