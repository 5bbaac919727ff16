"""The store that four sidecars share fails while one redeems: callers are told, nothing is redeemed twice."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio

from tests.authserver import clients
from tests.authserver.oidc import OidcProvider, sha256
from tests.authserver.plain_client import PlainClient
from tests.authserver.proxy import FaultProxy, held
from tests.e2e.vaults import eventually
from tests.postgres.fixtures import PutStore
from tests.postgres.server import on_store
from tests.renewal.seeding import BRAND, LIFE, log_in, seeding
from tests.renewal.sidecars import Running, several
from tests.renewal.test_concurrency import configure, redemptions
from tests.renewal.test_store_faults import NO_ROOM, REFUSE, ROOM, another_writes, growing_no_file
from tokenvault import StoreUnavailable, Token
from tokenvault_sidecar.adapters.postgres_connecting import parameters
from tokenvault_sidecar.config import load_config
from tokenvault_sidecar.wiring import postgres_settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXPIRED, NEARLY = LIFE + 100, LIFE - 100
MIN_TTL = 300.0
"""More than is left of a token that is NEARLY over."""
TROUBLES = ("full", "locked")
PEOPLE = {"alice": EXPIRED, "bob": EXPIRED, "carol": NEARLY}
"""How old their tokens are."""


@dataclass(frozen=True, slots=True)
class Place:
    """Four sidecars, and an authorization server behind a proxy. Of each trouble's own people:

    Alice's redemption is under way as it begins; Bob's token is over, and Carol's nearly.
    """

    config: Path
    provider: OidcProvider
    proxy: FaultProxy
    sidecars: list[Running]
    refresh_tokens: dict[str, str]
    versions: dict[str, str]

    async def ask(self, person: str, *, min_ttl: float = 0.0) -> list[Token | BaseException]:
        """At every sidecar at once."""
        calls = (sidecar.bot.get_token(BRAND, consumer=person, min_ttl=min_ttl) for sidecar in self.sidecars)
        return await asyncio.gather(*calls, return_exceptions=True)

    def redemptions_of(self, person: str) -> list[tuple[int, str | None]]:
        """How the person's refresh token was, and for what."""
        return [
            (entry.status, entry.access_token)
            for entry in redemptions(self.provider)
            if entry.presented == self.refresh_tokens[person]
        ]

    async def unsaved(self) -> int:
        """How often a sidecar told that the store has not taken an answer."""
        return sum(s.process.stderr.read_text().count("renewal_unsaved") for s in self.sidecars)

    @asynccontextmanager
    async def trouble(self, name: str) -> AsyncIterator[None]:
        """While it lasts, nothing can be written."""
        store = load_config(self.config).store
        match name, store.url:
            case "full", None:
                with growing_no_file(self.config, *self.sidecars):
                    yield
            case "locked", None:
                async with another_writes(store.file):
                    yield
            case "full", _:
                on_store(self.config, f"{REFUSE}; {NO_ROOM}")
                try:
                    yield
                finally:
                    on_store(self.config, f"{ROOM}; DROP FUNCTION refuse")
            case "locked", _:
                with psycopg.connect(**parameters(postgres_settings(store))) as holder:
                    holder.execute("LOCK TABLE grants IN EXCLUSIVE MODE")
                    yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory, put_store: PutStore) -> AsyncIterator[Place]:
    """The server rotates refresh tokens, and ends a family at a replay."""
    folder = tmp_path_factory.mktemp("shared")
    async with (
        FaultProxy() as proxy,
        OidcProvider(registrations=[clients.BASIC], issuer=proxy.url) as provider,
    ):
        proxy.forward_to(provider.port)
        config = configure(folder, provider, put_store)
        ages = {f"{who}-{name}": age for name in TROUBLES for who, age in PEOPLE.items()}
        ages["bystander"] = 0.0
        answers = await log_in(provider, clients.BASIC, ages)
        versions: dict[str, str] = {}
        async with seeding(config) as seeder:
            for person, age in ages.items():
                versions |= await seeder.add({person: answers[person]}, age=age)
        refresh_tokens = {person: sha256(str(answer["refresh_token"])) for person, answer in answers.items()}
        async with several(config, 4) as sidecars:
            yield Place(config, provider, proxy, sidecars, refresh_tokens, versions)


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_four_sidecars_on_a_store_that_fails(place: Place, trouble: str) -> None:
    alice, bob, carol = (f"{who}-{trouble}" for who in PEOPLE)
    before, acted, released = await place.unsaved(), place.proxy.acted(), asyncio.Event()
    place.proxy.queue(held(released))
    waiting = asyncio.create_task(place.ask(alice))
    await place.proxy.until_acted(acted + 1)
    await place.ask("bystander")  # the same connections: when this is answered, those before it were heard
    async with place.trouble(trouble):
        released.set()
        told, served = await asyncio.gather(place.ask(bob), place.ask(carol, min_ttl=MIN_TTL))
        assert all(map(is_told, told))
        assert {(token.token_version, token.degraded) for token in all_tokens(served)} == {
            (place.versions[carol], True)
        }

        async def refused() -> bool:
            return await place.unsaved() > before

        await eventually(refused)
        assert not waiting.done()
    # Who had heard, but did not ask for the lease before that, is told as well.
    renewed = [answer for answer in await waiting if not is_told(answer)]
    assert renewed
    for person, first in ((alice, renewed), (bob, []), (carol, [])):
        answers = [*first, *await place.ask(person, min_ttl=MIN_TTL if person == carol else 0.0)]
        ((version, degraded, access_token),) = {
            (token.token_version, token.degraded, token.access_token) for token in all_tokens(answers)
        }
        assert version != place.versions[person]
        assert not degraded
        assert place.redemptions_of(person) == [(200, sha256(access_token))]
        assert (await PlainClient(place.provider, clients.BASIC).userinfo(access_token)).status_code == 200


def is_told(answer: Token | BaseException) -> bool:
    return isinstance(answer, StoreUnavailable) and bool(answer.retry_after)


def all_tokens(answers: Sequence[Token | BaseException]) -> list[Token]:
    tokens = [answer for answer in answers if isinstance(answer, Token)]
    assert len(tokens) == len(answers), answers
    return tokens
