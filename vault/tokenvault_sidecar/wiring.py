"""From the configuration's tables to what the adapters and the guard take."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, TypeVar, cast

from tokenvault_sidecar.adapters.audit import AuditLog, audit_key, worker_log
from tokenvault_sidecar.adapters.bearer import BearerSettings, BearerVerifier
from tokenvault_sidecar.adapters.client_auth import ClientAuth
from tokenvault_sidecar.adapters.kek import Kek
from tokenvault_sidecar.adapters.kek_aws import AwsKmsKek, AwsKmsSource
from tokenvault_sidecar.adapters.kek_pkcs11 import Pkcs11Kek, Pkcs11Source
from tokenvault_sidecar.adapters.keyring import KeyKeeper, read_kek
from tokenvault_sidecar.adapters.oauth import OAuthServer, ServerSettings
from tokenvault_sidecar.adapters.sqlite import SqliteStore
from tokenvault_sidecar.adapters.stores import ServedStore, StoreOpenError
from tokenvault_sidecar.api.callback import BOUNDS, Callback
from tokenvault_sidecar.api.pages import Look
from tokenvault_sidecar.api.tls import TlsFiles
from tokenvault_sidecar.config import BearerTable, BrandTable, Config
from tokenvault_sidecar.config.files import PrivateFile
from tokenvault_sidecar.config.kek_uri import KekSource, Pkcs11Uri
from tokenvault_sidecar.config.store import StoreTable
from tokenvault_sidecar.core.ports import Clock
from tokenvault_sidecar.core.renewal import RenewalSettings
from tokenvault_sidecar.core.rotation import Rotation, RotationSettings
from tokenvault_sidecar.core.sealing import Keyring, Sealer
from tokenvault_sidecar.http_server import HttpServer
from tokenvault_sidecar.listening import Share, not_listening

if TYPE_CHECKING:
    from tokenvault_sidecar.adapters.postgres_connecting import PostgresSettings
    from tokenvault_sidecar.adapters.tracing import Tracing

_PATIENCE = 5.0
"""Seconds a caller waits for a redemption beyond its deadline: for the store, and for a peer."""


T = TypeVar("T", OAuthServer, BearerVerifier)


class Remotes:
    """What fetches from elsewhere: brands' authorization servers, and the issuers of callers' tokens."""

    def __init__(self, config: Config, clock: Clock, *, before: "Remotes | None" = None) -> None:
        """Takes over from `before` what is made of the same as it was. Raises ValueError."""
        self._made: dict[str, tuple[object, OAuthServer | BearerVerifier]] = {}
        self._before = before._made if before is not None else {}
        self.servers: dict[str, OAuthServer] = {}
        self.bearers: dict[str, BearerVerifier] = {}
        for brand, table in config.brands.items():
            server = _server_settings(brand, table, config)
            make = partial(OAuthServer, server, brand=brand, clock=clock)
            self.servers[brand] = self._one(f"brand {brand}", server, make)
        for name, caller in config.callers.items():
            if caller.bearer is not None:
                shown = _bearer_settings(name, caller.bearer, config)
                verify = partial(BearerVerifier, shown, caller=name, clock=clock)
                self.bearers[name] = self._one(f"caller {name}", shown, verify)
        self._before = {}

    def without(self, others: "Remotes") -> list[OAuthServer | BearerVerifier]:
        """What these have and the others do not."""
        theirs = {id(remote) for remote in others.all()}
        return [remote for remote in self.all() if id(remote) not in theirs]

    def all(self) -> list[OAuthServer | BearerVerifier]:
        return [*self.servers.values(), *self.bearers.values()]

    def _one(self, name: str, settings: ServerSettings | BearerSettings, make: Callable[[], T]) -> T:
        """The one of this name that was, where its settings and authorities are what they were."""
        made_of = (settings, settings.ca_file.read_bytes() if settings.ca_file else None)
        known, old = self._before.get(name, (None, None))
        one = cast(T, old) if known == made_of else make()
        self._made[name] = (made_of, one)
        return one


def looks(config: Config) -> dict[str, Look]:
    """How each brand's page looks."""
    return {
        brand: Look(
            name=table.page.name or brand,
            logo=table.page.logo_file,
            text=table.page.text_color,
            background=table.page.background_color,
            accent=table.page.accent_color,
            scopes=table.page.scopes,
        )
        for brand, table in config.brands.items()
    }


def callback_server(config: Config, callback: Callback, share: Share | None) -> HttpServer | None:
    """Listening for consumers, where the configuration says so. Raises CannotListen."""
    table = config.callback
    if table is None:
        return None
    try:
        app = callback.app(table.path, https=table.tls is not None)
        listening = share.callback if share else None
        return HttpServer.listen(table.listen, app, BOUNDS, tls=table.tls, listening=listening)
    except OSError as error:
        raise not_listening("callback.listen", table.listen, error) from None


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


def keks(config: Config, before: Sequence[Kek] = ()) -> list[Kek]:
    """The KEK that wraps, and the one that some keys may be wrapped by still. Raises KeyringError. Blocks.

    One elsewhere that is among those `before` is not asked again: it may be away now.
    """
    return [open_kek(source, before) for source in config.keys.keks]


def open_kek(source: KekSource, before: Sequence[Kek] = ()) -> Kek:
    """As `keks`, one."""
    if isinstance(source, PrivateFile):
        return read_kek(source.path)
    if isinstance(source, Pkcs11Uri):
        token = Pkcs11Source(source.token, source.label, source.module, source.pin_file.path)
        return _known(token, before) or Pkcs11Kek(token)
    key = AwsKmsSource(source.key_id, source.region, source.endpoint)
    return _known(key, before) or AwsKmsKek(key)


def _known(source: Pkcs11Source | AwsKmsSource, before: Sequence[Kek]) -> Kek | None:
    return next((kek for kek in before if getattr(kek, "source", None) == source), None)


def rotation_settings(config: Config) -> RotationSettings:
    return RotationSettings(after=config.keys.rotate_after, after_seals=config.keys.rotate_after_seals)


@dataclass(frozen=True, slots=True)
class OpenStore:
    """A store beside the sidecars that serve from it, its keys opened."""

    store: ServedStore
    keys: KeyKeeper

    @property
    def rotation(self) -> Rotation:
        return Rotation(self.store, Sealer(self.keys.keyring), self.keys, time.time, lambda *_, **__: None)


async def open_store(config: Config, *, make: bool = True) -> ServedStore:
    """The configuration's store; with `make` False only where it is there already. Raises StoreOpenError."""
    table = config.store
    if table.url is None:
        if not make and not table.file.exists():
            raise StoreOpenError(f"{table.file}: is not there: the first start of a sidecar makes it")
        return SqliteStore.open(table.file)
    from tokenvault_sidecar.adapters.postgres import PostgresStore

    try:
        return await PostgresStore.open(postgres_settings(table), make=make)
    except StoreOpenError as problem:
        raise StoreOpenError(f"{table.url}: {problem}") from None


def postgres_settings(table: StoreTable) -> "PostgresSettings":
    """Of a store that is a database."""
    from tokenvault_sidecar.adapters.postgres_connecting import PostgresSettings

    url = table.url
    assert url is not None
    return PostgresSettings(
        hosts=url.hosts,
        ports=url.ports,
        user=url.user,
        database=url.database,
        password_file=table.password_file.path if table.password_file else None,
        sslmode=table.sslmode,
        sslrootcert=_authorities(table),
        connections=table.connections,
    )


def _authorities(table: StoreTable) -> str | None:
    """In libpq's words."""
    if table.sslmode == "disable":
        return None
    return str(table.sslrootcert) if table.sslrootcert else "system"


@asynccontextmanager
async def opened_store(config: Config) -> AsyncIterator[OpenStore]:
    """The configuration's store while the block lasts.

    Makes no store and no keys. Raises KeyringError, StoreOpenError, StoreUnavailable.
    """
    keys = keks(config)
    store = await open_store(config, make=False)
    try:
        yield OpenStore(store, await KeyKeeper.open(store, keys, None))
    finally:
        await store.close()


def tracing(config: Config) -> "Tracing | None":
    """Where traces go, where there are to be any. Raises ValueError where what they need is not installed."""
    if config.tracing is None:
        return None
    try:
        from tokenvault_sidecar.adapters.tracing import Tracing
    except ImportError:
        raise ValueError(
            "tracing: OpenTelemetry is not installed: pip install 'tokenvault-sidecar[otel]'"
        ) from None
    traces = Tracing(
        config.tracing.endpoint, config.tracing.sample_ratio, version=version("tokenvault-sidecar")
    )
    traces.brands = config.brands
    return traces


def audit_log(config: Config, keyring: Keyring, share: Share | None) -> AuditLog | None:
    """The audit log, opened, where there is to be one. Raises AuditError."""
    if config.audit is None:
        return None
    return AuditLog(
        worker_log(config.audit.path, share.worker) if share else config.audit.path,
        audit_key(keyring),
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


def _bearer_settings(caller: str, table: BearerTable, config: Config) -> BearerSettings:
    try:
        return BearerSettings(
            issuer=table.issuer,
            audience=table.audience,
            scopes=table.scopes,
            algorithms=table.algorithms,
            client_ids=None if table.client_ids is None else frozenset(table.client_ids),
            require_certificate_binding=table.require_certificate_binding,
            jwks_uri=table.jwks_uri,
            static_keys=table.jwks_file.text if table.jwks_file else None,
            ca_file=table.ca_file,
            development=config.development,
        )
    except ValueError as problem:
        raise ValueError(f"callers.{caller}.bearer.{problem}") from None
