"""The sidecar as a process: everything wired, started, and stopped without losing anything."""

import asyncio
import random
import secrets
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress

import grpc
import structlog
import uvloop

from tokenvault_sidecar.adapters.client_auth import ClientAuth
from tokenvault_sidecar.adapters.clock import SteadyClock
from tokenvault_sidecar.adapters.keyring import KeyringError, open_keyring, read_kek
from tokenvault_sidecar.adapters.logs import LogEvents, configure_logging
from tokenvault_sidecar.adapters.oauth import OAuthServer, ServerSettings
from tokenvault_sidecar.adapters.sqlite import SqliteStore, StoreOpenError
from tokenvault_sidecar.api.guard import Guard
from tokenvault_sidecar.api.server import CannotListen, build_server
from tokenvault_sidecar.api.servicer import Servicer
from tokenvault_sidecar.api.tls import TlsFiles, TlsFilesInvalid
from tokenvault_sidecar.config import BrandTable, Config
from tokenvault_sidecar.core.background import Background
from tokenvault_sidecar.core.delegations import Delegations
from tokenvault_sidecar.core.errors import StoreUnavailable
from tokenvault_sidecar.core.housekeeping import Housekeeping
from tokenvault_sidecar.core.policy import Policy
from tokenvault_sidecar.core.ports import Events, Store
from tokenvault_sidecar.core.renewal import RenewalSettings, Renewer
from tokenvault_sidecar.core.revocation import Revoker
from tokenvault_sidecar.core.sealing import Sealer
from tokenvault_sidecar.core.tokens import Tokens
from tokenvault_sidecar.core.vault import Vault

CANNOT_START = 2
"""Exit status where something outside is not as it must be; the last line on stderr says what."""

_CANNOT_START = (
    KeyringError,
    StoreOpenError,
    CannotListen,
    TlsFilesInvalid,
    ValueError,
)

_PATIENCE = 5.0
"""Seconds a caller waits for a redemption beyond its deadline: for the store, and for a peer."""


class Sidecar:
    """One sidecar, serving. Made by `start`; `stop` it."""

    def __init__(
        self,
        *,
        server: grpc.aio.Server,
        addresses: tuple[str, ...],
        store: Store,
        authorization_servers: Mapping[str, OAuthServer],
        background: Background,
        housekeeping: Housekeeping,
        drain_timeout: float,
    ) -> None:
        self.addresses = addresses
        self._server = server
        self._store = store
        self._authorization_servers = authorization_servers
        self._background = background
        self._drain_timeout = drain_timeout
        self._housekeeping = asyncio.get_running_loop().create_task(housekeeping.run(), name="housekeeping")

    @classmethod
    async def start(cls, config: Config, events: Events) -> "Sidecar":
        """Open the store and its keys, wire the core, and serve.

        Raises StoreOpenError, StoreUnavailable, KeyringError, CannotListen, TlsFilesInvalid, ValueError.
        """
        clock = SteadyClock(events)
        kek = read_kek(config.keys.kek_file.path)
        store = SqliteStore.open(config.store.path)
        servers: dict[str, OAuthServer] = {}
        try:
            sealer = Sealer(await open_keyring(store, kek, clock()))
            for brand, table in config.brands.items():
                servers[brand] = OAuthServer(_server_settings(brand, table, config), brand=brand, clock=clock)
            background = Background(events)
            vault = Vault(
                store=store,
                sealer=sealer,
                brands={brand.id: brand for brand in config.to_brands()},
                servers=servers,
                clock=clock,
                events=events,
                background=background,
                new_id=lambda: secrets.token_urlsafe(16),
                new_secret=lambda: secrets.token_urlsafe(32),
                jitter=random.random,
            )
            revoker = Revoker(vault)
            renewer = Renewer(vault, revoker, _renewal_settings(config))
            server, addresses = build_server(
                Servicer(Delegations(vault, revoker), Tokens(vault, renewer, revoker)),
                Guard(Policy(config.to_callers())),
                config.server.listen,
                TlsFiles(
                    config.server.certificate_file,
                    config.server.private_key_file.path,
                    config.server.client_ca_file,
                ),
                max_connection_age=config.server.connection_max_age,
            )
            await server.start()
        except BaseException:
            await _close(store, servers)
            raise
        return cls(
            server=server,
            addresses=addresses,
            store=store,
            authorization_servers=servers,
            background=background,
            housekeeping=Housekeeping(vault, renewer, revoker, interval=config.housekeeping.interval),
            drain_timeout=config.server.drain_timeout,
        )

    async def stop(self) -> None:
        """Take no more calls, finish those under way and every redemption, and close the store."""
        deadline = asyncio.get_running_loop().time() + self._drain_timeout
        self._housekeeping.cancel()
        with suppress(asyncio.CancelledError):
            await self._housekeeping
        await self._server.stop(self._drain_timeout)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._background.drain()
        await _close(self._store, self._authorization_servers)


def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; the exit status. A second signal ends the process at once."""
    configure_logging(config.server.log_level, config.server.log_format)
    log = structlog.get_logger()
    for warning in config.warnings:
        log.warning("config", warning=warning)
    try:
        return uvloop.run(_serve(config))
    except StoreUnavailable as error:  # it names no file: it is told to callers too
        problem = f"{config.store.path}: {error}"
    except _CANNOT_START as error:
        problem = str(error)
    sys.stderr.write(f"cannot start: {problem}\n")
    return CANNOT_START


async def _serve(config: Config) -> int:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(name)
        stopped.set()

    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop)
    log = structlog.get_logger()
    sidecar = await Sidecar.start(config, LogEvents())
    log.info("ready", listening=sidecar.addresses, brands=sorted(config.brands))
    sys.stdout.write(f"ready: listening on {', '.join(sidecar.addresses)}\n")
    sys.stdout.flush()
    await stopped.wait()
    log.info("stopping")
    await sidecar.stop()
    log.info("stopped")
    return 0


async def _close(store: Store, servers: Mapping[str, OAuthServer]) -> None:
    for server in servers.values():
        await server.aclose()
    await store.close()


def _renewal_settings(config: Config) -> RenewalSettings:
    renewal = config.renewal
    return RenewalSettings(
        deadline=renewal.redemption_deadline,
        lease=renewal.lease,
        patience=renewal.redemption_deadline + _PATIENCE,
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
