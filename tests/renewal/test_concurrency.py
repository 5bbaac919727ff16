"""One redemption per token version, however many ask. The server ends a whole family on a replay."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.authserver import clients
from tests.authserver.fixtures import StartProvider
from tests.authserver.oidc import LogEntry, OidcProvider, sha256
from tests.authserver.plain_client import PlainClient
from tests.authserver.proxy import FaultProxy, held
from tests.postgres.fixtures import PutStore
from tests.renewal.seeding import BRAND, log_in, seeding
from tests.renewal.sidecars import Running, several, tune
from tests.running import make_config
from tokenvault import Token

EXPIRED = 700.0
READERS = 1000


@dataclass(frozen=True, slots=True)
class Place:
    """A configuration for sidecars, and an authorization server behind a proxy."""

    config: Path
    provider: OidcProvider
    proxy: FaultProxy

    def hold_next_answer(self) -> asyncio.Event:
        """The server acts on the next token request; its answer arrives when the event is set."""
        released = asyncio.Event()
        self.proxy.queue(held(released))
        return released


@pytest.fixture
def place(
    tmp_path: Path, start_provider: StartProvider, fault_proxy: FaultProxy, put_store: PutStore
) -> Place:
    provider = start_provider(registrations=[clients.BASIC], issuer=fault_proxy.url)
    fault_proxy.forward_to(provider.port)
    return Place(configure(tmp_path, provider, put_store), provider, fault_proxy)


def configure(folder: Path, provider: OidcProvider, put_store: PutStore) -> Path:
    config = make_config(folder / "vault", provider, clients.BASIC)
    put_store(config)
    # How fast this machine is must not decide.
    tune(config, "renewal", redemption_deadline="50s", lease="90s")
    tune(config, "limits", rate=10_000, burst=10_000, concurrency=10_000)
    return config


def redemptions(provider: OidcProvider) -> list[LogEntry]:
    return provider.token_requests(grant_type="refresh_token")


async def ask_together(place: Place, sidecars: list[Running], *, rejected: str | None = None) -> list[Token]:
    """READERS calls, all taken up before the server's answer is let through."""
    before = place.proxy.acted()
    released = place.hold_next_answer()
    readers = [
        asyncio.create_task(
            sidecars[number % len(sidecars)].bot.get_token(
                BRAND, consumer="alice", rejected_token_version=rejected
            )
        )
        for number in range(READERS)
    ]
    await place.proxy.until_acted(before + 1)
    for sidecar in sidecars:  # the same connection: when this is answered, those before it were heard
        await sidecar.bot.get_token(BRAND, consumer="bystander")
    assert not any(reader.done() for reader in readers)
    released.set()
    return await asyncio.gather(*readers)


async def the_one_redemption(place: Place, tokens: list[Token], old: str) -> None:
    (redemption,) = redemptions(place.provider)
    assert redemption.status == 200
    assert len(tokens) == READERS
    ((version, token),) = {token.token_version: token for token in tokens}.items()
    assert version != old
    assert {token.degraded for token in tokens} == {False}
    assert redemption.access_token == sha256(token.access_token)
    client = PlainClient(place.provider, clients.BASIC)
    assert (await client.userinfo(token.access_token)).status_code == 200


@pytest.mark.parametrize("processes", [1, 4])
async def test_a_thousand_readers_of_one_expired_token(place: Place, processes: int) -> None:
    answers = await log_in(place.provider, clients.BASIC, ["alice", "bystander"])
    async with seeding(place.config) as seeder:
        await seeder.add({"bystander": answers.pop("bystander")})
        old = await seeder.add(answers, age=EXPIRED)
    async with several(place.config, processes) as sidecars:
        tokens = await ask_together(place, sidecars)
    await the_one_redemption(place, tokens, old["alice"])


@pytest.mark.parametrize("put_store", ["sqlite", "postgres", "pooler"], indirect=True)
async def test_a_thousand_reports_of_one_rejected_token(place: Place) -> None:
    answers = await log_in(place.provider, clients.BASIC, ["alice", "bystander"])
    async with seeding(place.config) as seeder:
        old = (await seeder.add(answers))["alice"]
    async with several(place.config, 4) as sidecars:
        tokens = await ask_together(place, sidecars, rejected=old)
        late = await sidecars[0].bot.get_token(BRAND, consumer="alice", rejected_token_version=old)
    await the_one_redemption(place, tokens, old)
    assert late.token_version == tokens[0].token_version


async def test_five_hundred_expired_at_once_by_four_sidecars(
    tmp_path: Path, start_provider: StartProvider, put_store: PutStore
) -> None:
    """Readers at every sidecar, and every sidecar's background, after the same grants."""
    provider = start_provider(registrations=[clients.BASIC])
    config = configure(tmp_path, provider, put_store)
    people = [f"consumer-{number}" for number in range(500)]
    answers = await log_in(provider, clients.BASIC, people)
    async with seeding(config) as seeder:
        await seeder.add(answers, age=EXPIRED, due=True)
    async with several(config, 4) as sidecars:
        read = [
            asyncio.gather(*(sidecar.bot.get_token(BRAND, consumer=person) for sidecar in sidecars))
            for person in people
        ]
        everything = await asyncio.gather(*read)
    asked = redemptions(provider)
    assert [entry.status for entry in asked] == [200] * len(people)
    assert {entry.presented for entry in asked} == {
        sha256(str(answer["refresh_token"])) for answer in answers.values()
    }
    assert [entry.event for entry in provider.log() if entry.event == "grant_revoked"] == []
    assert {len({token.token_version for token in tokens}) for tokens in everything} == {1}
    issued = {entry.access_token for entry in asked}
    assert {sha256(tokens[0].access_token) for tokens in everything} == issued
