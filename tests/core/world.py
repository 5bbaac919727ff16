"""The core wired to fakes, with a clock that is set by hand."""

import asyncio
import os
import random
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tests.fakes.memory_store import MemoryStore
from tests.fakes.server import FakeServer
from tokenvault_sidecar.adapters.kek import FileKek
from tokenvault_sidecar.adapters.keyring import KeyKeeper
from tokenvault_sidecar.core.background import Background
from tokenvault_sidecar.core.challenges import DelegationRequest
from tokenvault_sidecar.core.consent import Consent
from tokenvault_sidecar.core.delegations import Delegations
from tokenvault_sidecar.core.housekeeping import Housekeeping
from tokenvault_sidecar.core.model import Brand, Context, ContextKind, ContextSettings, Delegated
from tokenvault_sidecar.core.ports import Clock, GrantRow, Store
from tokenvault_sidecar.core.renewal import RenewalSettings, Renewer
from tokenvault_sidecar.core.revocation import Revoker
from tokenvault_sidecar.core.rotation import Rotation
from tokenvault_sidecar.core.sealing import Keyring, Sealer
from tokenvault_sidecar.core.tokens import IssuedToken, TokenRequest, Tokens
from tokenvault_sidecar.core.vault import Vault

ALICE = Context(ContextKind.CONSUMER, "alice")
CHAT = Context(ContextKind.CONVERSATION, "chat-1")
REDIRECT = "https://brand.test/callback"
KEK = FileKek(b"K" * 32)
START = 1_800_000_000.0

ACME = Brand(
    id="acme",
    redirect_uris=(REDIRECT, "https://brand.test/other"),
    contexts={
        ContextKind.CONSUMER: ContextSettings(
            scopes=("openid", "api:read"),
            allowed_scopes=frozenset({"openid", "api:read", "api:write"}),
            session_absolute=12 * 3600.0,
            session_idle=1800.0,
        ),
        ContextKind.CONVERSATION: ContextSettings(
            scopes=("api:read",), allowed_scopes=frozenset({"api:read"}), max_lifetime=3600.0
        ),
    },
    allowed_parameters=frozenset({"prompt", "login_hint"}),
    authorization_parameters={"prompt": "consent"},
)


@dataclass
class HandClock:
    now: float = START

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Noted:
    events: list[tuple[str, dict[str, str | int | float]]] = field(default_factory=list)

    def __call__(self, event: str, /, **facts: str | int | float) -> None:
        self.events.append((event, facts))

    def outcomes(self, event: str) -> list[str | int | float]:
        return [facts["outcome"] for name, facts in self.events if name == event]


def keyring() -> Keyring:
    return Keyring(index_key=os.urandom(32), data_keys={"d1": os.urandom(32)}, active="d1")


class World:
    """One sidecar's core. `sibling()` is another sidecar on the same store, keys and servers."""

    def __init__(
        self,
        *,
        store: Store | None = None,
        clock: HandClock | None = None,
        server: FakeServer | None = None,
        keys: Keyring | None = None,
        settings: RenewalSettings | None = None,
        brand: Brand = ACME,
        wall: Clock | None = None,
    ) -> None:
        self.clock = clock or HandClock()
        now = wall or self.clock
        self.server = server or FakeServer(now)
        self.store: Store = store or MemoryStore(lease_clock=now)
        self.keys = keys or keyring()
        self.events = Noted()
        self.settings = settings or RenewalSettings()
        self.background = Background(self.events)
        self.vault = Vault(
            store=self.store,
            sealer=Sealer(self.keys),
            keys=KeyKeeper(self.store, [KEK], self.keys),
            brands={brand.id: brand},
            servers={brand.id: self.server},
            clock=now,
            events=self.events,
            background=self.background,
            new_id=lambda: secrets.token_urlsafe(16),
            new_secret=lambda: secrets.token_urlsafe(32),
            jitter=random.random,
        )
        self.revoker = Revoker(self.vault)
        self.renewer = Renewer(self.vault, self.revoker, self.settings)
        self.tokens = Tokens(self.vault, self.renewer, self.revoker)
        self.delegations = Delegations(self.vault, self.revoker)
        self.consent = Consent(self.vault, self.delegations)
        self.rotation = Rotation(self.store, self.vault.sealer, self.vault.keys, now, self.events)
        self.housekeeping = Housekeeping(self.vault, self.renewer, self.revoker, self.rotation, interval=1.0)

    def sibling(self) -> "World":
        return World(
            store=self.store, clock=self.clock, server=self.server, keys=self.keys, settings=self.settings
        )

    async def challenge(self, context: Context, **request: object) -> str:
        wanted = replace(DelegationRequest("acme", context, "bot"), **request)  # type: ignore[arg-type]  # any field
        return (await self.delegations.start(wanted)).authorization_url.reveal()

    async def delegate(
        self, context: Context = ALICE, account: str = "alice", **request: object
    ) -> Delegated:
        url = await self.challenge(context, **request)
        return await self.complete(url, account)

    async def complete(self, url: str, account: str = "alice", **changes: object) -> Delegated:
        response = replace(self.server.login(url, account), **changes)  # type: ignore[arg-type]  # any field
        return await self.delegations.complete(response, caller="bot", permit=permit_all)

    async def get(self, context: Context = ALICE, **request: object) -> IssuedToken:
        return await self.tokens.get(replace(TokenRequest("acme", context), **request))  # type: ignore[arg-type]  # any field

    async def row_of(self, context: Context = ALICE) -> GrantRow | None:
        return await self.store.get_grant(self.vault.context_key("acme", context))

    async def settle(self) -> None:
        """Let background work end."""
        async with asyncio.timeout(10):
            await self.background.drain()


def permit_all(brand: str, context: Context) -> None:
    """Policy that lets everything through."""


Permit = Callable[[str, ContextKind], None]
