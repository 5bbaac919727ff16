"""Killed at any moment, the sidecar has lost nothing that it had acknowledged."""

import asyncio
import os
import random
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from tests.authserver.scripted import Reply, ScriptedServer
from tests.e2e.scripted import access_token_for, consent, issuing, scripted_brand, token_path
from tests.e2e.vaults import PATIENCE, complaints, connect, make_vault
from tests.postgres.fixtures import PutStore
from tests.postgres.server import on_store
from tests.running import SidecarProcess
from tokenvault import AsyncTokenVaultClient, GrantNotFound, VaultUnreachable
from tokenvault_sidecar.config import load_config

KILLS = int(os.environ.get("TOKENVAULT_KILLS", "50"))
"""`make torture` has more."""
KILLS_ON_DATABASE = KILLS // 2 + 1
VAULTS = 2
"""Side by side, as most of the time goes into starting again."""

WRITERS, CHATS = 8, 8
LONGEST = 0.2
"""Seconds of writing before a kill, at most."""

GONE = None


@dataclass
class Ledger:
    """What each conversation's grant may be now: an access token, or gone.

    One thing only, unless something was under way when the sidecar was killed.
    """

    may_be: dict[str, set[str | None]] = field(default_factory=dict)
    acknowledged: int = 0
    read: int = 0
    unanswered: int = 0
    writes: asyncio.Event = field(default_factory=asyncio.Event)
    """Set with every acknowledgement."""

    def begins(self, chat: str, outcome: str | None) -> None:
        self.may_be.setdefault(chat, {GONE}).add(outcome)

    def acknowledges(self, chat: str, outcome: str | None) -> None:
        self.may_be[chat] = {outcome}
        self.acknowledged += 1
        self.writes.set()

    def reads(self, chat: str, found: str | None) -> None:
        """What was read once must stay, acknowledged or not."""
        allowed = self.may_be[chat]
        assert found in allowed, f"{chat}: {'gone' if found is GONE else 'another token'}, of {len(allowed)}"
        self.unanswered += len(allowed) - 1
        self.may_be[chat] = {found}
        self.read += 1


async def _write(
    vault: AsyncTokenVaultClient, server: ScriptedServer, ledger: Ledger, chats: list[str]
) -> None:
    """Delegate, delegate anew and invalidate, over and over until the sidecar is gone."""
    try:
        for turn in count():
            chat = random.choice(chats)
            if turn % 5 == 4:
                ledger.begins(chat, GONE)
                await vault.invalidate("acme", conversation=chat)
                ledger.acknowledges(chat, GONE)
                continue
            response = consent(server, await vault.start_delegation("acme", conversation=chat))
            token = access_token_for(response["code"])
            ledger.begins(chat, token)
            await vault.complete_delegation(response)
            ledger.acknowledges(chat, token)
    except VaultUnreachable:
        return


async def _read(vault: AsyncTokenVaultClient, ledger: Ledger) -> None:
    async def read(chat: str) -> None:
        try:
            found = (await vault.get_token("acme", conversation=chat)).access_token
        except GrantNotFound:
            ledger.reads(chat, GONE)
        else:
            ledger.reads(chat, found)

    await asyncio.gather(*map(read, list(ledger.may_be)))


async def _kill_over_and_over(config: Path, server: ScriptedServer, kills: int) -> Ledger:
    ledger = Ledger()
    chats = [[f"chat-{writer}-{number}" for number in range(CHATS)] for writer in range(WRITERS)]
    for _ in range(kills):
        sidecar = SidecarProcess(config)
        await asyncio.to_thread(sidecar.start)
        async with connect(sidecar) as vault:
            await _read(vault, ledger)
            ledger.writes.clear()
            writers = [asyncio.create_task(_write(vault, server, ledger, own)) for own in chats]
            async with asyncio.timeout(PATIENCE):
                await ledger.writes.wait()
            await asyncio.sleep(random.uniform(0, LONGEST))
            sidecar.kill()
            await asyncio.gather(*writers)
    sidecar = SidecarProcess(config)
    await asyncio.to_thread(sidecar.start)
    async with connect(sidecar) as vault:
        await _read(vault, ledger)
    assert await asyncio.to_thread(sidecar.stop) == 0
    assert complaints(sidecar) == []
    if load_config(config).store.url is None:
        assert on_store(config, "PRAGMA integrity_check") == [("ok",)]
    return ledger


@pytest.mark.timeout(6 * KILLS)
async def test_killed_over_and_over(
    tmp_path: Path, put_store: PutStore, capsys: pytest.CaptureFixture[str]
) -> None:
    async with ScriptedServer() as server:
        server.on(token_path("acme"), issuing(server))
        server.on("/acme/revoke", Reply())
        configs = [
            make_vault(tmp_path / str(number), {"acme": scripted_brand(server, "acme")})
            for number in range(VAULTS)
        ]
        for config in configs:
            put_store(config)
        kills = KILLS if load_config(configs[0]).store.url is None else KILLS_ON_DATABASE
        ledgers = await asyncio.gather(
            *(_kill_over_and_over(config, server, kills // VAULTS) for config in configs)
        )
    acknowledged = sum(ledger.acknowledged for ledger in ledgers)
    with capsys.disabled():
        print(
            f"\nkilled {kills} times: {acknowledged} writes acknowledged, none lost; "
            f"{sum(ledger.unanswered for ledger in ledgers)} under way at a kill, "
            f"each done or not; {sum(ledger.read for ledger in ledgers)} grants read after restarts"
        )
    assert acknowledged > kills
