"""What goes wrong between sidecar and authorization server, what callers see, what becomes of the grant.

Every row of the table is played twice, on brands of their own: by a grant
whose access token has expired, and by one whose token lives but has less life
left than is asked for. That by readers at one sidecar, and by readers at four
that share a store: all see the same. On each kind of store, and by turns, two
beginning at a time.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from email.utils import formatdate
from itertools import product
from pathlib import Path

import pytest
import pytest_asyncio

from tests.authserver import clients, proxy
from tests.authserver.fixtures import StartProvider
from tests.authserver.oidc import OidcProvider
from tests.authserver.proxy import Fault, FaultProxy, delayed, held, slow_loris, status
from tests.postgres.fixtures import PutStore
from tests.renewal.seeding import BRAND, LIFE, log_in, seeding
from tests.renewal.sidecars import Running, add_brand, another_version, running, several, tune
from tests.running import make_config
from tokenvault import TokenVaultError
from tokenvault.aio import AsyncTokenVaultClient
from tokenvault_sidecar.core.gate import SLOTS

DEADLINE = 3.0
NEVER = asyncio.Event()
BACKED_OFF = 2.1
"""Seconds after which a first back-off (1 s at most) and the table's short Retry-After are over."""
SOON = 0.5
"""Seconds within which those who wait for an answer must see that there is none: the least first back-off."""
EXPIRED, NEARLY = LIFE + 100, LIFE - 100
ALONE, TOGETHER = 1, 4
"""How many sidecars a grant is asked for at."""
READERS = 2
"""At each of them."""
AT_ONCE = 2
"""Grants whose readers begin at the same time: a back-off is shorter than this machine may be slow."""
MIN_TTL = 300.0
"""More than is left of a token that is NEARLY over: a renewal is due, but the old one would serve."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a grant's readers saw: "renewed", "degraded", or an error's reason.

    `first`: when the fault struck; `acted`: on how many requests the server
    had acted by then. `later`: after the back-off, the fault being gone;
    `requests`: how many were sent in all.
    """

    first: str
    acted: int
    later: str
    requests: int


@dataclass(frozen=True, slots=True)
class Row:
    """A fault, and what readers of an expired and of a living token see of it."""

    fault: Fault
    expired: Seen
    living: Seen
    rotates: bool = True


def answered(fault: Fault) -> Row:
    """No harm is done."""
    return Row(fault, Seen("renewed", 1, "renewed", 1), Seen("renewed", 1, "renewed", 1))


def refused(fault: Fault, reason: str = "AS_UNAVAILABLE") -> Row:
    """The server said that it did not act: asked again after the back-off."""
    return Row(fault, Seen(reason, 0, "renewed", 2), Seen("degraded", 0, "renewed", 2))


def unheard(fault: Fault) -> Row:
    """The server never had the request, but who can know: one redemption more, once the token is over."""
    return Row(fault, Seen("AS_UNAVAILABLE", 0, "renewed", 2), Seen("degraded", 0, "degraded", 1))


def lost(fault: Fault, *, rotates: bool = True) -> Row:
    """The server acted and its answer was lost. A rotating one takes the redemption more for a replay."""
    later = "CONSENT_REQUIRED" if rotates else "renewed"
    expired, living = Seen("AS_UNAVAILABLE", 1, later, 2), Seen("degraded", 1, "degraded", 1)
    return Row(fault, expired, living, rotates)


def _http(said: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {said}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


INVALID_CLIENT = Fault(
    "invalid_client",
    forward=False,
    answer=lambda _: _http("401 Unauthorized", b'{"error":"invalid_client"}'),
)
ACTED_THEN_FAILED = replace(status(500), name="500 although it acted", forward=True)
FAR_OFF = 60
BUSY_UNTIL = Fault(
    "429 until a date",
    forward=False,
    answer=lambda _: _http(f"429 Busy\r\nRetry-After: {formatdate(time.time() + FAR_OFF, usegmt=True)}", b""),
)
STILL_REFUSED = Seen("AS_UNAVAILABLE", 0, "AS_UNAVAILABLE", 1), Seen("degraded", 0, "degraded", 1)

ROWS: Mapping[str, Row] = {
    "none": answered(proxy.PASS),
    "late request, in time": answered(delayed(DEADLINE / 10)),
    "late answer, in time": answered(held(DEADLINE / 10)),
    "429": refused(status(429)),
    "429, Retry-After": refused(status(429, retry_after=2)),
    "500": refused(status(500)),
    "500, Retry-After": refused(status(500, retry_after=2)),
    "503": refused(status(503)),
    "503, Retry-After": refused(status(503, retry_after=2)),
    "503, Retry-After far off": Row(status(503, retry_after=FAR_OFF), *STILL_REFUSED),
    "429, Retry-After a date": Row(BUSY_UNTIL, *STILL_REFUSED),
    "invalid_client": refused(INVALID_CLIENT, "AS_MISCONFIGURED"),
    "reset before the server had it": unheard(proxy.RESET_BEFORE),
    "request never forwarded": unheard(delayed(NEVER)),
    "reset after the server acted": lost(proxy.RESET_AFTER),
    "answer never forwarded": lost(held(NEVER)),
    "slow loris": lost(slow_loris(DEADLINE / 4)),
    "truncated body": lost(proxy.TRUNCATED),
    "half a JSON object": lost(proxy.HALF_JSON),
    "HTML": lost(proxy.HTML),
    "reset after the server acted, not rotating": lost(proxy.RESET_AFTER, rotates=False),
    "HTML, not rotating": lost(proxy.HTML, rotates=False),
    # What a 5xx says is believed. Where it is not so the grant is lost, as by every client.
    "500 although it acted": Row(
        ACTED_THEN_FAILED,
        Seen("AS_UNAVAILABLE", 1, "CONSENT_REQUIRED", 2),
        Seen("degraded", 1, "CONSENT_REQUIRED", 2),
    ),
}


@dataclass(frozen=True, slots=True)
class Grant:
    """Where one half of a row is played: a brand, its consumer, and the proxy before its token endpoint."""

    brand: str
    row: Row
    age: float
    proxy: FaultProxy

    async def play(self, sidecars: Sequence[Running], places: asyncio.Semaphore) -> Seen:
        async with places:
            heard, fault = asyncio.Event(), self.row.fault
            self.proxy.queue(fault if fault.before else replace(fault, before=heard))
            reading = asyncio.create_task(self._read(sidecars))
            await self.proxy.until_count(1)
            for sidecar in sidecars:  # the same connection: when this is answered, those before it were heard
                await sidecar.bot.get_token(BRAND, consumer="bystander")
            heard.set()
            await asyncio.wait({reading}, timeout=SOON)  # lest those who begin next slow these down
        first = await reading
        acted = self.proxy.acted()
        await asyncio.sleep(BACKED_OFF)
        later = await self._read(sidecars)
        return Seen(first, acted, later, self.proxy.count())

    async def _read(self, sidecars: Sequence[Running]) -> str:
        """What all of them see who ask at once."""
        reads = [self._read_one(sidecar.bot) for sidecar in sidecars for _ in range(READERS)]
        return " or ".join(sorted(set(await asyncio.gather(*reads))))

    async def _read_one(self, bot: AsyncTokenVaultClient) -> str:
        min_ttl = 0.0 if self.age == EXPIRED else MIN_TTL
        try:
            token = await bot.get_token(self.brand, consumer=self.brand, min_ttl=min_ttl)
        except TokenVaultError as error:
            if error.reason == "AS_UNAVAILABLE" and not 0 < (error.retry_after or 0) <= FAR_OFF:
                return f"AS_UNAVAILABLE, ask again after {error.retry_after}"
            return str(error.reason)
        return "degraded" if token.degraded else "renewed"


Played = tuple[str, float, int]
"""A row's name, the token's age, and at how many sidecars."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def seen(
    tmp_path_factory: pytest.TempPathFactory, put_store: PutStore
) -> AsyncIterator[dict[Played, Seen]]:
    """All of the table played."""
    folder = tmp_path_factory.mktemp("faults")
    async with AsyncExitStack() as stack:
        rotating, other = [
            await stack.enter_async_context(OidcProvider(registrations=[clients.BASIC], rotate=rotate))
            for rotate in (True, False)
        ]
        config = make_config(folder / "vault", rotating, clients.BASIC)
        put_store(config)
        tune(config, "renewal", redemption_deadline=f"{DEADLINE:.0f}s", lease="30s")
        tune(config, "limits", rate=10_000, burst=10_000, concurrency=10_000)
        grants: dict[Played, Grant] = {}
        for played in product(ROWS, (EXPIRED, NEARLY), (ALONE, TOGETHER)):
            name, age, _ = played
            row = ROWS[name]
            provider = rotating if row.rotates else other
            before = await stack.enter_async_context(FaultProxy())
            before.forward_to(provider.port)
            grant = grants[played] = Grant(f"row-{len(grants)}", row, age, before)
            add_brand(config, grant.brand, provider, clients.BASIC, before)
        async with seeding(config) as seeder:
            await seeder.add(await log_in(rotating, clients.BASIC, ["bystander"]))
            for provider in (rotating, other):
                its = [g for g in grants.values() if g.row.rotates == (provider is rotating)]
                answers = await log_in(provider, clients.BASIC, [grant.brand for grant in its])
                for grant in its:
                    await seeder.add({grant.brand: answers[grant.brand]}, brand=grant.brand, age=grant.age)
        places = asyncio.Semaphore(AT_ONCE)
        async with several(config, TOGETHER) as sidecars:
            playing = [grant.play(sidecars[:count], places) for (*_, count), grant in grants.items()]
            yield dict(zip(grants, await asyncio.gather(*playing), strict=True))


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("count", [ALONE, TOGETHER])
def test_an_expired_token(seen: dict[Played, Seen], name: str, count: int) -> None:
    assert seen[name, EXPIRED, count] == ROWS[name].expired


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("count", [ALONE, TOGETHER])
def test_a_token_that_still_lives(seen: dict[Played, Seen], name: str, count: int) -> None:
    assert seen[name, NEARLY, count] == ROWS[name].living


async def test_one_brands_outage_delays_no_other_brand(
    tmp_path: Path, start_provider: StartProvider, fault_proxy: FaultProxy, put_store: PutStore
) -> None:
    """More grants of one brand wait than its server may be asked for at once: others notice nothing."""
    provider = start_provider(registrations=[clients.BASIC])
    fault_proxy.forward_to(provider.port)
    config = make_config(tmp_path / "vault", provider, clients.BASIC)
    put_store(config)
    tune(config, "renewal", redemption_deadline="50s", lease="90s")
    add_brand(config, "slow", provider, clients.BASIC, fault_proxy)
    people = [f"consumer-{number}" for number in range(SLOTS + 8)]
    answers = await log_in(provider, clients.BASIC, [*people[:10], "due"])
    of_slow = await log_in(provider, clients.BASIC, [*people, "fresh"])
    async with seeding(config) as seeder:
        fresh = await seeder.add({"fresh": of_slow.pop("fresh")}, brand="slow")
        await seeder.add(of_slow, brand="slow", age=EXPIRED)
        due = await seeder.add({"due": answers.pop("due")}, age=LIFE - 10, due=True)
        await seeder.add(answers, age=EXPIRED)
    released = asyncio.Event()
    fault_proxy.set(held(released))
    async with running(config) as sidecar:
        bot = sidecar.bot
        waiting = [asyncio.create_task(bot.get_token("slow", consumer=person)) for person in people]
        await fault_proxy.until_acted(SLOTS)
        # brand "acme": readers, and the background
        served = await asyncio.gather(*(bot.get_token(BRAND, consumer=person) for person in answers))
        assert {token.degraded for token in served} == {False}
        await another_version(bot, BRAND, "due", than=due["due"])
        # the same brand: what needs no renewal
        token = await bot.get_token("slow", consumer="fresh")
        assert token.token_version == fresh["fresh"]
        assert fault_proxy.count() == SLOTS
        assert not any(task.done() for task in waiting)
        released.set()
        await asyncio.gather(*waiting)
        assert fault_proxy.count() == len(people)
