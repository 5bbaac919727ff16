"""What every use-case works with: the ports, the brands, the sealer, and sources of chance."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from tokenvault_sidecar.core import lifecycle
from tokenvault_sidecar.core.background import Background
from tokenvault_sidecar.core.errors import InvalidRequest, ServerMisconfigured, StoreUnavailable
from tokenvault_sidecar.core.gate import Gate
from tokenvault_sidecar.core.model import (
    Brand,
    Context,
    ContextKind,
    Delegation,
    Grant,
    Held,
    Outcome,
    Secret,
)
from tokenvault_sidecar.core.ports import (
    AuthorizationServer,
    Clock,
    DelegationRow,
    Events,
    GrantRow,
    Keys,
    OutcomeRow,
    RevocationRow,
    Store,
)
from tokenvault_sidecar.core.sealing import Sealer, UnknownDataKey

T = TypeVar("T")
_Row = TypeVar("_Row")
_Opened = TypeVar("_Opened")

UNSAVED = "delegation_unsaved"
"""The event of a try to store what a code was exchanged for that the store did not take."""


@dataclass(slots=True)
class Vault:
    """`new_id` names things, `new_secret` makes unguessable values of 256 bits, `jitter` is in [0, 1)."""

    store: Store
    sealer: Sealer
    keys: Keys
    brands: Mapping[str, Brand]
    servers: Mapping[str, AuthorizationServer]
    clock: Clock
    events: Events
    background: Background
    new_id: Callable[[], str]
    new_secret: Callable[[], str]
    jitter: Callable[[], float]
    _gates: dict[str, Gate] = field(default_factory=dict)

    def gate(self, brand_id: str) -> Gate:
        """The gate before the brand's authorization server."""
        gate = self._gates.get(brand_id)
        if gate is None:
            gate = self._gates[brand_id] = Gate(
                brand_id, clock=self.clock, events=self.events, jitter=self.jitter
            )
        return gate

    def take_servers(self, servers: Mapping[str, AuthorizationServer]) -> None:
        """Ask these from now on. A new one starts with a new gate: what was wrong may be mended."""
        for brand_id in [name for name in self._gates if servers.get(name) is not self.servers.get(name)]:
            del self._gates[brand_id]
        self.servers = servers

    def brand(self, brand_id: str, kind: ContextKind | None = None) -> Brand:
        """The brand, with this kind of context switched on where one is given. Raises InvalidRequest."""
        brand = self.brands.get(brand_id)
        if brand is None:
            raise InvalidRequest("brand_id", f"brand {brand_id!r} is not configured")
        if kind is not None and kind not in brand.contexts:
            raise InvalidRequest("context", f"brand {brand_id!r} has {kind} contexts switched off")
        return brand

    def server(self, brand_id: str) -> AuthorizationServer:
        """The brand's authorization server. Raises ServerMisconfigured where the brand is gone meanwhile."""
        server = self.servers.get(brand_id)
        if server is None:
            raise ServerMisconfigured(
                f"brand {brand_id!r} is no longer configured: its grants wait for its return"
            )
        return server

    def context_key(self, brand_id: str, context: Context) -> bytes:
        """The blind row key of a context's grant."""
        return self.sealer.context_key(brand_id, context)

    async def grant(self, key: bytes) -> tuple[GrantRow, Grant] | None:
        """The stored grant, opened, or None. Raises StoreUnavailable."""
        row = await self.store.get_grant(key)
        return (row, await self.open_grant(row)) if row else None

    async def open_grant(self, row: GrantRow) -> Grant:
        """Raises StoreUnavailable, as the sealer does."""
        return await self._open(self.sealer.open_grant, row)

    async def open_delegation(self, row: DelegationRow) -> Delegation:
        """Raises StoreUnavailable, as the sealer does."""
        return await self._open(self.sealer.open_delegation, row)

    async def open_held(self, row: DelegationRow) -> Held:
        """Raises StoreUnavailable, as the sealer does."""
        return await self._open(self.sealer.open_held, row)

    async def open_outcome(self, row: OutcomeRow) -> Outcome:
        """Raises StoreUnavailable, as the sealer does."""
        return await self._open(self.sealer.open_outcome, row)

    async def open_revocation(self, row: RevocationRow) -> tuple[Secret, str]:
        """Raises StoreUnavailable, as the sealer does."""
        return await self._open(self.sealer.open_revocation, row)

    async def _open(self, opener: Callable[[_Row], _Opened], row: _Row) -> _Opened:
        try:
            return opener(row)
        except UnknownDataKey:  # a peer may have sealed it by a key that is newer than those here
            await self.keys.refresh()
            return opener(row)

    async def insist(self, write: Callable[[], Awaitable[T]], *, event: str, brand: str) -> T:
        """Write what an authorization server answered, however long the store cannot; `event` tells of it."""
        pause = 0.05
        while True:
            try:
                return await write()
            except StoreUnavailable:
                self.events(event, brand=brand, retry_in=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)

    async def write_soon(self, write: Callable[[], Awaitable[object]], *, event: str, brand: str) -> None:
        """The same, but nobody waits until the store can."""
        try:
            await write()
        except StoreUnavailable:
            self.background.spawn(self.insist(write, event=event, brand=brand), event)

    def row(self, key: bytes, grant: Grant) -> GrantRow:
        """The row of a grant, its due times computed; never due for a brand that is no longer configured."""
        brand = self.brands.get(grant.brand)
        return GrantRow(
            key=key,
            brand=grant.brand,
            kind=grant.kind,
            version=grant.tokens.version,
            sealed=self.sealer.seal_grant(key, grant),
            purge_at=lifecycle.purge_at(grant),
            renew_at=lifecycle.renew_at(grant, margin=brand.renewal_margin, jitter=self.jitter())
            if brand
            else None,
        )

    async def update(self, key: bytes, version: str, change: Callable[[Grant], Grant | None]) -> Grant | None:
        """Change the stored grant, while it is of this token version, however it was changed meanwhile.

        `change` gives None where there is nothing to do. None: nothing was done.
        """
        while True:
            stored = await self.grant(key)
            if stored is None or stored[0].version != version:
                return None
            changed = change(stored[1])
            if changed is None:
                return None
            if await self.store.touch_grant(self.row(key, changed), was=stored[0].sealed):
                return changed
