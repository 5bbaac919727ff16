"""The sidecar: everything wired, started, reloaded, and stopped without losing anything."""

import asyncio
import random
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from tokenvault_sidecar.adapters.audit import AuditLog
from tokenvault_sidecar.adapters.bearer import BearerVerifier
from tokenvault_sidecar.adapters.clock import SteadyClock
from tokenvault_sidecar.adapters.keyring import KeyKeeper
from tokenvault_sidecar.adapters.oauth import OAuthServer
from tokenvault_sidecar.adapters.stores import ServedStore
from tokenvault_sidecar.api.callback import Callback
from tokenvault_sidecar.api.guard import Admission, Guard
from tokenvault_sidecar.api.record import recorder
from tokenvault_sidecar.api.server import SERVICE, HealthServicer, HealthStatus, build_server
from tokenvault_sidecar.api.servicer import Servicer
from tokenvault_sidecar.config import FIXED, Config
from tokenvault_sidecar.core.background import Background
from tokenvault_sidecar.core.consent import Consent
from tokenvault_sidecar.core.delegations import Delegations
from tokenvault_sidecar.core.errors import StoreUnavailable
from tokenvault_sidecar.core.housekeeping import Housekeeping
from tokenvault_sidecar.core.policy import Policy
from tokenvault_sidecar.core.ports import Events
from tokenvault_sidecar.core.renewal import Renewer
from tokenvault_sidecar.core.revocation import Revoker
from tokenvault_sidecar.core.rotation import Rotation
from tokenvault_sidecar.core.sealing import Sealer
from tokenvault_sidecar.core.tokens import Tokens
from tokenvault_sidecar.core.vault import Vault
from tokenvault_sidecar.listening import Share
from tokenvault_sidecar.operations import Operations, both
from tokenvault_sidecar.ops.metrics import Metrics
from tokenvault_sidecar.wiring import (
    Remotes,
    audit_log,
    callback_server,
    keks,
    looks,
    open_store,
    renewal_settings,
    rotation_settings,
    tls_files,
    tracing,
)

if TYPE_CHECKING:
    from tokenvault_sidecar.adapters.tracing import Tracing

_HELD: Final = 0.1
"""Seconds for which calls are held before the server stops, lest they come just then: gRPC cancels them."""

_TOLD: Final = 0.1
"""Seconds after which who watches health knows that it stops, and the watch ends."""

_LONGEST_USE: Final = 300.0
"""Seconds for which work under way may still use what a reload has replaced."""


class Sidecar:
    """One sidecar, serving. Made by `start`; `stop` it."""

    def __init__(
        self,
        *,
        config: Config,
        store: ServedStore,
        vault: Vault,
        remotes: Remotes,
        keys: KeyKeeper,
        audit: AuditLog | None,
        metrics: Metrics | None,
        traces: "Tracing | None",
        share: Share | None,
    ) -> None:
        self._config = config
        self._store = store
        self._vault = vault
        self._remotes = remotes
        self._keys = keys
        self._audit = audit
        self._metrics = metrics
        self._traces = traces
        self._revoker = Revoker(vault)
        self._renewer = Renewer(vault, self._revoker, renewal_settings(config))
        self._rotation = Rotation(vault.store, vault.sealer, vault.keys, vault.clock, vault.events)
        self._rotation.settings = rotation_settings(config)
        self._health = HealthServicer()
        record = recorder(audit, vault.context_key) if audit else None
        self._guard = Guard(
            _admission(config, remotes),
            record=record,
            observe=metrics.call if metrics else None,
            trace=traces.begin if traces else None,
            longest=config.limits.longest_call,
        )
        self._delegations = Delegations(vault, self._revoker)
        self._server, self.addresses = build_server(
            Servicer(
                self._delegations,
                Tokens(vault, self._renewer, self._revoker),
                Consent(vault, self._delegations),
            ),
            self._guard,
            share.listen if share else config.server.listen,
            tls_files(config),
            max_connection_age=config.server.connection_max_age,
            longest_call=config.limits.longest_call,
            health=self._health,
            shared=share is not None,
        )
        self.operations = Operations(
            config, store, vault, metrics, self._tell_health, shared=share is not None
        )
        self._callback = Callback(
            self._delegations,
            lambda: self._guard.admission.policy,
            looks(config),
            record=record,
            trace=traces.begin if traces else None,
        )
        self._browsers = callback_server(config, self._callback, share)
        self._housekeeping = self._keep_house()
        self._closing: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(cls, config: Config, events: Events, share: Share | None = None) -> "Sidecar":
        """Open the store and its keys, wire the core, and serve; with `share`, as one of several workers.

        Raises StoreOpenError, StoreUnavailable, KeyringError, AuditError,
        CannotListen, TlsFilesInvalid, ValueError.
        """
        metrics = Metrics() if config.ops else None
        if metrics:
            metrics.know(config.brands)
            events = both(events, metrics)
        traces = tracing(config)
        clock = SteadyClock(events)
        given = keks(config)
        store = await open_store(config)
        remotes: Remotes | None = None
        try:
            keys = await KeyKeeper.open(store, given, clock())
            remotes = Remotes(config, clock)
            vault = Vault(
                store=store,
                sealer=Sealer(keys.keyring),
                keys=keys,
                brands={brand.id: brand for brand in config.to_brands()},
                servers=remotes.servers,
                clock=clock,
                events=events,
                background=Background(events),
                new_id=lambda: secrets.token_urlsafe(16),
                new_secret=lambda: secrets.token_urlsafe(32),
                jitter=random.random,
            )
            audit = audit_log(config, keys.keyring, share)
            sidecar = cls(
                config=config,
                store=store,
                vault=vault,
                remotes=remotes,
                keys=keys,
                audit=audit,
                metrics=metrics,
                traces=traces,
                share=share,
            )
            await sidecar._server.start()
            if sidecar._browsers is not None:
                sidecar._browsers.start()
        except BaseException:
            await _close(store, remotes)
            raise
        await sidecar.operations.start()
        return sidecar

    @property
    def ops_address(self) -> str | None:
        """Where probes are answered; None where the configuration has no such port."""
        return self.operations.address

    @property
    def callback_address(self) -> str | None:
        """Where consumers come back to; None where that is not here."""
        return self._browsers.address if self._browsers is not None else None

    async def reload(self, config: Config) -> tuple[str, ...]:
        """Go by this configuration from the next call on; the keys that only a restart changes.

        Calls under way go on as they began. Certificates need no reload: they
        are looked at before each handshake. Raises ValueError and OSError, with
        nothing changed.
        """
        needs_restart = tuple(_fixed(self._config, config))
        config = config.model_copy(update={name: getattr(self._config, name) for name in FIXED})
        remotes = Remotes(config, self._vault.clock, before=self._remotes)
        if self._browsers is not None:
            self._browsers.reload_certificate()
        await self._keys.use(await asyncio.to_thread(keks, config, self._keys.keks))
        self._rotation.settings = rotation_settings(config)
        gone = self._remotes.without(remotes)
        self._vault.brands = {brand.id: brand for brand in config.to_brands()}
        self._vault.take_servers(remotes.servers)
        self._remotes = remotes
        if self._metrics:
            self._metrics.know(config.brands)
        if self._traces:
            self._traces.brands = config.brands
        self._guard.admit(_admission(config, remotes))
        self._callback.looks = looks(config)
        self._guard.longest = config.limits.longest_call
        self._config = config
        self._housekeeping.cancel()
        self._housekeeping = self._keep_house()
        if gone:
            closing = asyncio.get_running_loop().create_task(_close_later(gone), name="closing")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        return needs_restart

    def reopen(self) -> None:
        """Go on in a new audit log, where somebody moved the old one away. Raises AuditError."""
        if self._audit is not None:
            self._audit.reopen()

    async def stop(self) -> None:
        """Take no more calls, finish those under way and every redemption, and close the store.

        Calls get what the drain leaves them beyond one redemption's time: what
        is being redeemed when they end must still be answered and stored.
        """
        drain, redemption = self._config.server.drain_timeout, self._config.renewal.redemption_deadline
        deadline = asyncio.get_running_loop().time() + drain
        await self.operations.drain()
        self._delegations.outcomes.close()
        if self._browsers is not None:
            await self._browsers.stop()
        self._housekeeping.cancel()
        with suppress(asyncio.CancelledError):
            await self._housekeeping
        self._guard.hold()
        await asyncio.sleep(_HELD)
        stopping = asyncio.get_running_loop().create_task(self._server.stop(drain), name="stopping")
        await asyncio.wait({stopping}, timeout=_TOLD)
        self._guard.let_go()
        self._guard.end_streams()
        await asyncio.wait({stopping}, timeout=max(drain - redemption, drain / 2))
        self._guard.end_calls()
        self._renewer.stop()
        await stopping
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._vault.background.drain()
        for closing in self._closing:
            closing.cancel()
        await self.operations.stop()
        with suppress(StoreUnavailable):  # the count is about right: nothing else may depend on it
            await self._rotation.save_count()
        await _close(self._store, self._remotes)
        if self._audit is not None:
            self._audit.close()
        if self._traces:
            self._traces.close(deadline - asyncio.get_running_loop().time())

    def _keep_house(self) -> asyncio.Task[None]:
        housekeeping = Housekeeping(
            self._vault,
            self._renewer,
            self._revoker,
            self._rotation,
            interval=self._config.housekeeping.interval,
        )
        return asyncio.get_running_loop().create_task(housekeeping.run(), name="housekeeping")

    async def _tell_health(self, ready: bool) -> None:
        for service in ("", SERVICE):
            await self._health.set(service, HealthStatus.SERVING if ready else HealthStatus.NOT_SERVING)


def _admission(config: Config, remotes: Remotes) -> Admission:
    return Admission(Policy(config.to_callers()), config.to_limits(), remotes.bearers)


def _fixed(before: Config, after: Config) -> Iterator[str]:
    """The keys that differ and stay as they were until a restart."""
    for name in FIXED:
        old, new = getattr(before, name), getattr(after, name)
        if old is None or new is None:
            if old is not new:
                yield name
            continue
        for key in type(old).model_fields:
            # Of a private file its mode may change.
            was, is_now = (getattr(value, "path", value) for value in (getattr(old, key), getattr(new, key)))
            if was != is_now:
                yield f"{name}.{key}"


async def _close_later(remotes: Sequence[OAuthServer | BearerVerifier]) -> None:
    """Once nothing can be using them any more."""
    await asyncio.sleep(_LONGEST_USE)
    await asyncio.gather(*(remote.aclose() for remote in remotes))


async def _close(store: ServedStore, remotes: Remotes | None) -> None:
    if remotes is not None:
        await asyncio.gather(*(remote.aclose() for remote in remotes.all()))
    await store.close()
