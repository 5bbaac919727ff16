"""Sidecars on a database that fails, an authorization server behind a proxy, what must be so afterwards."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.authserver import clients
from tests.authserver.oidc import OidcProvider
from tests.authserver.plain_client import PlainClient
from tests.authserver.proxy import FaultProxy
from tests.ops.ports import get
from tests.postgres.server import PostgresServer, move_to
from tests.renewal.seeding import BRAND, LIFE, log_in, seeding
from tests.renewal.sidecars import Running, endpoints, tune
from tests.renewal.test_concurrency import redemptions
from tests.running import make_config
from tokenvault import AuthorizationServerUnavailable, StoreUnavailable, Token

EXPIRED = LIFE + 100
AT_ONCE = 20.0
"""Seconds that are more than any time-out, and less than a hang."""


@dataclass(frozen=True, slots=True)
class Place:
    """A configuration for sidecars on a database of their own."""

    config: Path
    server: PostgresServer
    database: str
    provider: OidcProvider
    proxy: FaultProxy

    async def seed(self, *people: str, age: float = EXPIRED) -> dict[str, str]:
        """Their grants; the token versions."""
        async with seeding(self.config) as seeder:
            return await seeder.add(await log_in(self.provider, clients.BASIC, people), age=age)

    async def works(self, token: Token) -> bool:
        client = PlainClient(self.provider, clients.BASIC)
        return (await client.userinfo(token.access_token)).status_code == 200

    async def redeemed(self, count: int) -> bool:
        """Whether so many refresh tokens were."""
        return len(redemptions(self.provider)) >= count

    async def renewed_once(self, sidecar: Running, people: Sequence[str], tokens: Sequence[Token]) -> None:
        """Each of these people's grants was; all they were given, as many each, is what is stored now."""
        stored = [await insist(sidecar, person) for person in people]
        assert [entry.status for entry in redemptions(self.provider)] == [200] * len(people)
        each = len(tokens) // len(people)
        for number, token in enumerate(stored):
            given = tokens[each * number : each * (number + 1)]
            assert {t.token_version for t in given} == {token.token_version}
            assert await self.works(token)


def make_place(folder: Path, server: PostgresServer, provider: OidcProvider, proxy: FaultProxy) -> Place:
    proxy.forward_to(provider.port)
    config = make_config(folder / "vault", provider, clients.BASIC)
    tune(config, f"brands.{BRAND}", **endpoints(provider, proxy))
    tune(config, "renewal", redemption_deadline="50s", lease="90s")
    tune(config, "limits", rate=10_000, burst=10_000, concurrency=10_000)
    return Place(config, server, move_to(server, config), provider, proxy)


async def insist(sidecar: Running, consumer: str) -> Token:
    """Ask as a bot does, again where it is told to wait."""
    async with asyncio.timeout(120):
        while True:
            try:
                return await sidecar.bot.get_token(BRAND, consumer=consumer)
            except (StoreUnavailable, AuthorizationServerUnavailable):
                await asyncio.sleep(0.1)


async def is_not_ready(sidecar: Running, why: str) -> bool:
    """Whether a probe is told no, and why."""
    answer = await get(sidecar.process, "/readyz")
    return answer.status == 503 and why in answer.text


async def is_ready(sidecar: Running) -> bool:
    return (await get(sidecar.process, "/readyz")).status == 200
