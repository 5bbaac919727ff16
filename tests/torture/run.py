"""One run: a server, a fleet, bots, kills, and the verdict."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.authserver.clients import BASIC
from tests.authserver.oidc import OidcProvider
from tests.authserver.plain_client import plain_http
from tests.authserver.proxy import Fault, FaultProxy
from tests.postgres.server import PostgresServer
from tests.torture.bots import Bot
from tests.torture.fleet import BRAND, Fleet
from tests.torture.judge import ACCESS_TOKEN_TTL, Judge, Wrong
from tests.torture.ledger import Ledger
from tests.torture.stored import StoredGrants
from tokenvault_sidecar.config import load_config

LIFE = (0.02, 0.4)
"""Seconds from ready to SIGKILL, at random."""

AWAY = Fault("away", before=0.02, after=0.03)
"""The way to the token endpoint and back, in seconds: what was sent arrives, whoever is killed meanwhile."""

LOGINS = 3
"""Consumers that log in at once."""

LAST_WORD = 30.0
"""Seconds after the last start in which every grant must give a token or ask for consent."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. The same seed gives the same kills and questions, but not the same races."""

    kills: int
    grants: int
    sidecars: int
    seed: int
    store: Literal["sqlite", "postgres"] = "sqlite"
    restarts: int = 0
    """How often the database is restarted meanwhile, as by a crash and in order; with PostgreSQL only."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of it. Of `stored` grants the newest tokens were committed at the last kill; `work` do."""

    plan: Plan
    judge: Judge
    seconds: float
    stored: int
    work: int


async def torture(plan: Plan, folder: Path, say: Callable[[str], None]) -> Verdict:
    """Kill as planned and judge. Raises where the test itself cannot go on."""
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(
            OidcProvider(registrations=[BASIC], access_token_ttl=ACCESS_TOKEN_TTL)
        )
        proxy = await stack.enter_async_context(FaultProxy())
        proxy.forward_to(provider.port)
        proxy.set(AWAY)
        server = stack.enter_context(PostgresServer(durable=True)) if plan.store == "postgres" else None
        fleet = await stack.enter_async_context(
            Fleet(folder, provider, token_endpoint=f"{proxy.url}/token", size=plan.sidecars, server=server)
        )
        api = await stack.enter_async_context(plain_http())
        consumers = tuple(f"consumer-{number}" for number in range(plan.grants))
        stored = StoredGrants(load_config(fleet.config), BRAND)
        judge = Judge(Ledger(provider), stored, fleet.incarnations, consumers)
        logins = asyncio.Semaphore(LOGINS)
        bots = [
            Bot(
                consumer,
                fleet=fleet,
                judge=judge,
                api=api,
                userinfo_endpoint=provider.userinfo_endpoint,
                logins=logins,
                chance=random.Random(f"{plan.seed} {consumer}"),
            )
            for consumer in consumers
        ]
        await asyncio.gather(*(bot.delegate() for bot in bots))
        say(f"{plan.grants} grants are delegated")
        await _kill(plan, fleet, judge, bots, server, say)
        await _kill_all(fleet, judge)
        await proxy.until_acted(proxy.count())
        must_work = judge.must_work()
        work = await _last_word(plan, fleet, judge, bots)
        judge.look_back()
    return Verdict(plan, judge, time.monotonic() - began, len(must_work), len(must_work & work))


async def _kill(
    plan: Plan,
    fleet: Fleet,
    judge: Judge,
    bots: Sequence[Bot],
    server: PostgresServer | None,
    say: Callable[[str], None],
) -> None:
    chance, restarted = random.Random(plan.seed), 0
    async with asyncio.TaskGroup() as load:
        running = [load.create_task(bot.run()) for bot in bots]
        for number in range(1, plan.kills + 1):
            await asyncio.sleep(chance.uniform(*LIFE))
            victim = chance.choice(fleet.up)
            await fleet.kill(victim)
            judge.killed(victim)
            await fleet.start()
            if server is not None and number * plan.restarts // plan.kills > restarted:
                restarted += 1
                await asyncio.to_thread(server.stop, "immediate" if restarted % 2 else "fast")
                await asyncio.to_thread(server.start)
                judge.counts["restarts of the database"] += 1
            if number % 20 == 0:
                wrong = sum(map(len, judge.wrongs.values()))
                say(f"{number} kills, {judge.counts['tokens served']} tokens served, {wrong} wrong")
        for task in running:
            task.cancel()


async def _kill_all(fleet: Fleet, judge: Judge) -> None:
    for victim in fleet.up:
        await fleet.kill(victim)
        judge.killed(victim)


async def _last_word(plan: Plan, fleet: Fleet, judge: Judge, bots: Sequence[Bot]) -> set[str]:
    """Start all, and ask for every grant: the consumers whose grants work."""
    for _ in range(plan.sidecars):
        await fleet.start()
    said = await asyncio.gather(*(_insist(bot, judge) for bot in bots))
    for status in await fleet.stop():
        if status:
            judge.wrong(Wrong.OTHER, f"SIGTERM ended a sidecar with status {status}")
    return {bot.consumer for bot, works in zip(bots, said, strict=True) if works}


async def _insist(bot: Bot, judge: Judge) -> bool:
    """Whether the grant works: a token the server just ended, or being told to wait, is no answer."""
    until = time.monotonic() + LAST_WORD
    while time.monotonic() < until:
        works = await bot.ask()
        if works is not None:
            return works
        await asyncio.sleep(0.1)
    judge.wrong(Wrong.HUNG, f"{bot.consumer}: neither token nor consent in {LAST_WORD:.0f} s")
    return False
