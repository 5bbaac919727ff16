"""Grants in a sidecar's store without a login through the sidecar: made while none runs.

The tokens are real, of code flows of their own; only their age is made up:

    answers = await log_in(provider, clients.BASIC, ["alice"])
    async with seeding(config) as seeder:
        versions = await seeder.add(answers, age=700)
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from tests.authserver.clients import Registration
from tests.authserver.oidc import OidcProvider
from tests.authserver.plain_client import PlainClient
from tokenvault_sidecar.adapters.keyring import open_keyring
from tokenvault_sidecar.config import load_config
from tokenvault_sidecar.core import lifecycle, responses
from tokenvault_sidecar.core.model import Context, ContextKind, Grant, Session
from tokenvault_sidecar.core.ports import GrantRow, Store, TokenAnswer
from tokenvault_sidecar.core.sealing import Sealer
from tokenvault_sidecar.wiring import keks, open_store

BRAND = "acme"
LIFE = 600.0
SCOPE = "openid offline_access"
_AT_ONCE = 8


async def log_in(
    provider: OidcProvider, registration: Registration, accounts: Iterable[str]
) -> dict[str, TokenAnswer]:
    """The token answer of a code flow for each account: a family of its own at the server."""
    client, places = PlainClient(provider, registration), asyncio.Semaphore(_AT_ONCE)

    async def one(account: str) -> tuple[str, TokenAnswer]:
        async with places:
            return account, await client.login(account, scope=SCOPE)

    return dict(await asyncio.gather(*(one(account) for account in accounts)))


class Seeder:
    """Writes grants into the store of a configuration. Made by `seeding`."""

    def __init__(self, store: Store, sealer: Sealer, margin: float) -> None:
        self._store = store
        self._sealer = sealer
        self._margin = margin

    async def add(
        self, answers: Mapping[str, TokenAnswer], *, brand: str = BRAND, age: float = 0.0, due: bool = False
    ) -> dict[str, str]:
        """Store these answers as grants of the consumers who logged in; their token versions.

        `age`: how many seconds ago the token, which lives LIFE seconds, is
        said to have been issued. `due`: whether the background may renew the
        grant when its time comes; else that is left to readers.
        """
        issued_at = time.time() - age
        grants = {
            consumer: grant_of(brand, consumer, answer, issued_at) for consumer, answer in answers.items()
        }
        rows = [self._row(consumer, grant, due=due) for consumer, grant in grants.items()]
        assert all(await asyncio.gather(*(self._store.put_grant(row, replaces=None) for row in rows)))
        return {consumer: grant.tokens.version for consumer, grant in grants.items()}

    def _row(self, consumer: str, grant: Grant, *, due: bool) -> GrantRow:
        key = self._sealer.context_key(grant.brand, Context(grant.kind, consumer))
        return GrantRow(
            key=key,
            brand=grant.brand,
            kind=grant.kind,
            version=grant.tokens.version,
            sealed=self._sealer.seal_grant(key, grant),
            purge_at=lifecycle.purge_at(grant),
            renew_at=lifecycle.renew_at(grant, margin=self._margin, jitter=0.0) if due else None,
        )


@asynccontextmanager
async def seeding(config: Path) -> AsyncIterator[Seeder]:
    """The configuration's store, open, its keys made where there are none."""
    settings = load_config(config)
    store = await open_store(settings)
    try:
        keyring = await open_keyring(store, keks(settings)[0], time.time())
        yield Seeder(store, Sealer(keyring), settings.renewal.margin)
    finally:
        await store.close()


def grant_of(brand: str, subject: str, answer: TokenAnswer, issued_at: float) -> Grant:
    """The grant that this answer leaves. Its session is young, whatever its token's age."""
    now = time.time()
    tokens = responses.read_exchange(
        {**answer, "expires_in": LIFE}, version=secrets.token_urlsafe(16), scopes=(), now=issued_at
    )
    return Grant(
        brand=brand,
        kind=ContextKind.CONSUMER,
        family=secrets.token_urlsafe(16),
        tokens=replace(tokens, id_token=None),
        subject=subject,
        session=Session(absolute_end=now + 12 * 3600, idle=1800.0, last_used_at=now),
    )
