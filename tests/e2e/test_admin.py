"""`tokenvault grants` and `tokenvault stats`, beside a sidecar that serves."""

import asyncio
import json
import os
import pty
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.authserver.scripted import Reply, ScriptedServer
from tests.e2e.canaries import Canaries
from tests.e2e.commands import tokenvault
from tests.e2e.scripted import consent, delegate, issuing, scripted_brand, token_path
from tests.e2e.vaults import PATIENCE, Whose, connect, make_vault, running
from tests.postgres.fixtures import PutStore
from tests.running import COMMAND, SidecarProcess
from tokenvault import AsyncTokenVaultClient, GrantNotFound, StateNotFound
from tokenvault_sidecar.config import load_config


@dataclass
class Stage:
    """A sidecar of the brands "acme", with two consumers and a conversation, and "zenith", with one."""

    config: Path
    server: ScriptedServer
    sidecar: SidecarProcess
    bot: AsyncTokenVaultClient
    secrets: Canaries
    anna: str
    berta: str
    chat: str
    said: dict[str, bytes]

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """The command with this configuration. All it says is kept, to be searched for secrets."""
        done = await tokenvault(*arguments, "--config", self.config)
        self.said[f"{len(self.said)} {arguments[:2]}"] = f"{done[1]}{done[2]}".encode()
        return done

    async def rows(self, *arguments: str) -> list[dict[str, Any]]:
        status, out, err = await self.run("grants", "list", "--json", *arguments)
        assert (status, err) == (0, "")
        return [json.loads(line) for line in out.splitlines()]

    async def has_grant(self, brand: str, **whose: Any) -> bool:
        with suppress(GrantNotFound):
            await self.bot.get_token(brand, **whose)
            return True
        return False


@pytest.fixture
async def stage(tmp_path: Path, put_store: PutStore) -> AsyncIterator[Stage]:
    secrets = Canaries()
    subject = secrets.plant("subject")
    async with ScriptedServer() as server:
        brands = {}
        for name in ("acme", "zenith"):

            def remembering(seen: Any) -> Reply:
                reply = issuing(server)(seen)
                assert isinstance(reply.json, dict)
                for member in ("access_token", "refresh_token", "id_token"):
                    secrets.know(member, str(reply.json[member]))
                return reply

            server.on(token_path(name), remembering)
            server.on(f"/{name}/revoke", Reply())
            brands[name] = scripted_brand(server, name)
        config = make_vault(tmp_path / "vault", brands, housekeeping={"interval": "500ms"})
        put_store(config)
        secrets.know("KEK", (config.parent / "kek").read_text().strip())
        anna, berta, chat = (secrets.plant(f"id {number}") for number in range(3))
        async with running(config) as sidecar, connect(sidecar) as bot:
            for name, whose in (
                ("acme", Whose(consumer=anna)),
                ("acme", Whose(consumer=berta)),
                ("acme", Whose(conversation=chat)),
                ("zenith", Whose(consumer=anna)),
            ):
                await delegate(bot, server, name, whose, subject)
            stage = Stage(config, server, sidecar, bot, secrets, anna, berta, chat, {})
            yield stage
        assert len(secrets) > 10
        assert secrets.leaks(stage.said) == []


async def test_grants_are_listed_and_shown(stage: Stage) -> None:
    everything = await stage.rows()
    assert [row["key"] for row in everything] == sorted(row["key"] for row in everything)
    assert len(everything) == 4
    assert {row["brand"] for row in await stage.rows("--brand", "zenith")} == {"zenith"}
    annas = await stage.rows("--consumer", stage.anna)
    assert [(row["brand"], row["kind"]) for row in annas] == [("acme", "consumer"), ("zenith", "consumer")]
    (chat,) = await stage.rows("--conversation", stage.chat, "--brand", "acme")
    assert chat["kind"] == "conversation"
    assert not chat["renews"]
    assert not await stage.rows("--brand", "nobody")

    status, out, _ = await stage.run("grants", "show", "--brand", "acme", "--consumer", stage.anna, "--json")
    token = await stage.bot.get_token("acme", consumer=stage.anna)
    assert status == 0
    shown = json.loads(out)
    assert shown == annas[0]
    assert token.expire_time is not None
    assert shown["token_version"] == token.token_version
    assert shown["expires_at"] == f"{token.expire_time:%Y-%m-%dT%H:%M:%SZ}"
    assert shown["scopes"] == list(token.scopes)
    assert shown["readable"]
    assert shown["renews"]
    assert shown["attempt"] == {
        "under_way": False, "unanswered": 0, "failures": 0, "retry_at": None, "reason": None,
    }  # fmt: skip

    status, out, _ = await stage.run("grants", "show", "--brand", "acme", "--consumer", stage.anna)
    assert status == 0
    assert re.search(rf"^token_version +{token.token_version}$", out, re.MULTILINE)
    status, out, _ = await stage.run("grants", "list")
    assert status == 0
    title, *lines = out.splitlines()
    assert title.split()[:4] == ["KEY", "BRAND", "KIND", "VERSION"]
    assert [line[:12] for line in lines] == [row["key"][:12] for row in everything]
    status, _, err = await stage.run("grants", "show", "--brand", "acme", "--consumer", "nobody")
    assert (status, err) == (2, "brand 'acme' has no grant for this consumer\n")


async def test_grants_are_invalidated_while_the_sidecar_serves(stage: Stage) -> None:
    anna, invalidate = stage.anna, ("grants", "invalidate", "--brand", "acme")
    status, _, err = await stage.run(*invalidate, "--consumer", anna)
    assert (status, err) == (2, "Invalidate the grant of this consumer at brand 'acme'? "
                                "Nobody is here to be asked: add --yes\n")  # fmt: skip
    assert await stage.has_grant("acme", consumer=anna)

    response = consent(stage.server, await stage.bot.start_delegation("acme", consumer=anna))
    assert await stage.run(*invalidate, "--consumer", anna, "--yes") == (0, "1 grant invalidated\n", "")
    assert not await stage.has_grant("acme", consumer=anna)
    with pytest.raises(StateNotFound):
        await stage.bot.complete_delegation(response)
    await stage.server.arrived("/acme/revoke", 2)
    revoked = stage.server.requests("/acme/revoke")
    assert {seen.form["token_type_hint"] for seen in revoked} == {"refresh_token", "access_token"}
    again = await stage.run(*invalidate, "--consumer", anna, "--yes")
    assert again == (0, "there was no grant; pending delegations are void\n", "")
    assert await stage.has_grant("zenith", consumer=anna)

    assert await stage.run(*invalidate, "--all", "--yes") == (0, "2 grants invalidated\n", "")
    assert not await stage.has_grant("acme", consumer=stage.berta)
    assert not await stage.has_grant("acme", conversation=stage.chat)
    assert await stage.has_grant("zenith", consumer=anna)
    status, _, err = await stage.run("grants", "invalidate", "--brand", "former", "--all", "--yes")
    assert (status, "is not configured" in err) == (0, True)


async def test_an_operator_is_asked(stage: Stage) -> None:
    for answer, has_grant in ((b"n\n", True), (b"y\n", False)):
        ours, theirs = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "grants", "invalidate", "--config", str(stage.config),
            "--brand", "acme", "--consumer", stage.anna,
            stdin=theirs, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        os.close(theirs)
        os.write(ours, answer)
        _, err = await asyncio.wait_for(process.communicate(), PATIENCE)
        os.close(ours)
        assert process.returncode == (1 if has_grant else 0)
        assert b"Invalidate the grant of this consumer at brand 'acme'? [y/N]" in err
        assert await stage.has_grant("acme", consumer=stage.anna) is has_grant


async def test_stats_count_and_find_the_process(stage: Stage) -> None:
    await stage.bot.start_delegation("zenith", conversation="c-9")
    status, out, err = await stage.run("stats", "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["grants"] == [
        {"brand": "acme", "kind": "consumer", "count": 2},
        {"brand": "acme", "kind": "conversation", "count": 1},
        {"brand": "zenith", "kind": "consumer", "count": 1},
    ]
    waiting = ("ambiguous_grants", "due_renewals", "pending_delegations", "waiting_revocations")
    assert [found[name] for name in waiting] == [0, 0, 1, 0]
    assert {key["purpose"] for key in found["keys"]} == {"index", "data"}
    assert all(0 <= key["age_seconds"] < 600 for key in found["keys"])
    status, out, _ = await stage.run("stats")
    assert re.search(r"^  acme conversation +1$", out, re.MULTILINE)
    url = load_config(stage.config).store.url
    if url is not None:
        assert found["store"]["url"] == str(url)
        assert found["store"]["bytes"] > 0
        assert re.search(rf"^store +{re.escape(str(url))}, schema \d+$", out, re.MULTILINE)
    else:
        await _stats_of_the_file(stage, found, out)
    (stage.config.parent / "kek").write_text(
        (stage.config.parent / "kek").read_text()[::-1].strip("=\n") + "="
    )
    status, _, err = await stage.run("grants", "list")
    assert (status, "KEK" in err) == (2, True)


async def _stats_of_the_file(stage: Stage, found: dict[str, Any], out: str) -> None:
    store = stage.config.parent / "tokenvault.db"
    assert found["process"]["pid"] == stage.sidecar.pid
    assert 20e6 < found["process"]["resident_memory_bytes"] < 1e9
    assert 0 < found["store"]["bytes"] <= store.stat().st_size
    assert found["store"]["write_ahead_log_bytes"] > 0
    assert re.search(rf"^process +{stage.sidecar.pid}$", out, re.MULTILINE)
    assert re.search(r"^memory +\d+\.\d MB$", out, re.MULTILINE)
    await asyncio.to_thread(stage.sidecar.stop)
    _, out, _ = await stage.run("stats", "--json")
    assert json.loads(out)["process"] == {"pid": None, "resident_memory_bytes": None}
    assert len(await stage.rows()) == 4


async def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    async with ScriptedServer() as server:
        config = make_vault(tmp_path / "vault", {"acme": scripted_brand(server, "acme")})
    store = config.parent / "tokenvault.db"
    status, _, err = await tokenvault("stats", "--config", config)
    assert (status, err) == (2, f"{store}: is not there: the first start of a sidecar makes it\n")
    assert not store.exists()
