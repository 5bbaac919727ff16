"""`tokenvault backup` while a sidecar is busy, `tokenvault restore`, and what is served afterwards."""

import asyncio
import shutil
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from tests.authserver import clients
from tests.authserver.fixtures import StartProvider
from tests.authserver.oidc import OidcProvider
from tests.authserver.scripted import ScriptedServer
from tests.e2e.canaries import Canaries, files
from tests.e2e.commands import tokenvault
from tests.e2e.scripted import access_token_for, consent, issuing, scripted_brand, token_path
from tests.e2e.vaults import connect, eventually, make_vault, running
from tests.renewal.seeding import BRAND, LIFE, log_in, seeding
from tests.running import make_config
from tokenvault import AsyncTokenVaultClient, ConsentRequired, GrantNotFound

WRITERS = 8


async def _write(
    vault: AsyncTokenVaultClient, server: ScriptedServer, name: str, acknowledged: dict[str, str]
) -> None:
    """Delegate conversation after conversation; note each access token once it is acknowledged."""
    for turn in count():
        response = consent(server, await vault.start_delegation("acme", conversation=f"{name}-{turn}"))
        await vault.complete_delegation(response)
        acknowledged[f"{name}-{turn}"] = access_token_for(response["code"])


async def test_a_backup_under_load_holds_all_that_was_acknowledged(tmp_path: Path) -> None:
    async with ScriptedServer() as server:
        server.on(token_path("acme"), issuing(server))
        config = make_vault(tmp_path / "vault", {"acme": scripted_brand(server, "acme")})
        backup = tmp_path / "backup.db"
        acknowledged: dict[str, str] = {}
        async with running(config) as sidecar, connect(sidecar) as vault:
            writers = [
                asyncio.create_task(_write(vault, server, f"chat-{number}", acknowledged))
                for number in range(WRITERS)
            ]

            async def more_than(number: int) -> bool:
                assert not any(writer.done() for writer in writers)
                return len(acknowledged) > number

            await eventually(lambda: more_than(100))
            before = dict(acknowledged)
            status, said, complaints = await tokenvault("backup", backup, "--config", config)
            assert (status, complaints) == (0, "")
            after = len(acknowledged)
            assert after > len(before)  # it was under load
            await eventually(lambda: more_than(after + 20))  # and goes on
            for writer in writers:
                writer.cancel()
            await asyncio.wait(writers)
        copied = int(said.removeprefix(f"{backup}: ").partition(" ")[0])
        assert len(before) <= copied <= after + WRITERS
        (config.parent / "tokenvault.db").unlink()

        status, said, complaints = await tokenvault("restore", backup, "--config", config)
        assert (status, complaints) == (0, ""), complaints
        assert f"{copied} grants" in said
        async with running(config) as sidecar, connect(sidecar) as vault:
            for chat, token in before.items():
                assert (await vault.get_token("acme", conversation=chat)).access_token == token
            found = 0
            for chat, token in acknowledged.items():
                with suppress(GrantNotFound):
                    assert (await vault.get_token("acme", conversation=chat)).access_token == token
                    found += 1
            assert len(before) <= found <= copied


async def test_restored_grants_are_renewed_as_ambiguous(
    tmp_path: Path, start_provider: StartProvider
) -> None:
    """Against a server that rotates: one renewed since the backup, one not, one due, one new."""
    provider = start_provider(registrations=[clients.BASIC])
    config = make_config(tmp_path / "vault", provider, clients.BASIC)
    backup = tmp_path / "backup.db"
    answers = await log_in(provider, clients.BASIC, ["alice", "bob", "carol", "dave"])
    async with seeding(config) as seeder:
        old = await seeder.add({who: answers[who] for who in ("alice", "bob")})
        old |= await seeder.add({"carol": answers["carol"]}, age=LIFE - 20, due=True)
        assert (await tokenvault("backup", backup, "--config", config))[0] == 0
    async with running(config) as sidecar, connect(sidecar) as bot:
        newer = await bot.get_token(BRAND, consumer="alice", rejected_token_version=old["alice"])
        assert newer.token_version != old["alice"]
        status, _, complaints = await tokenvault("restore", backup, "--config", config, "--yes")
        assert status == 2
        assert complaints.endswith("has it open: stop the sidecar first\n")
        assert await bot.get_token(BRAND, consumer="alice") == newer

    status, _, complaints = await tokenvault("restore", backup, "--config", config)
    assert (status, complaints.count("add --yes")) == (2, 1)
    assert (await tokenvault("restore", backup, "--config", config, "--yes"))[0] == 0
    async with seeding(config) as seeder:
        old |= await seeder.add({"dave": answers["dave"]}, age=LIFE - 20, due=True)
    so_far = len(_renewals(provider))
    async with running(config) as sidecar, connect(sidecar) as bot:

        async def version(who: str) -> str:
            return (await bot.get_token(BRAND, consumer=who)).token_version

        async def dave_was_renewed() -> bool:
            return await version("dave") != old["dave"]

        # Their access tokens are served, and the background redeems nothing but what it knows to be fresh.
        await eventually(dave_was_renewed)
        for who in ("alice", "bob", "carol"):
            assert await version(who) == old[who]
        assert len(_renewals(provider)) == so_far + 1
        # Once it is over, it is tried: bob's refresh token is good still, and his grant as any other again.
        for _ in range(2):
            version_before = await version("bob")
            again = await bot.get_token(BRAND, consumer="bob", rejected_token_version=version_before)
            assert again.token_version != version_before
        # Alice's was rotated since: a replay, which ends the grant at the server, and here.
        with pytest.raises(ConsentRequired):
            await bot.get_token(BRAND, consumer="alice", rejected_token_version=old["alice"])
        asked = len(_renewals(provider))
        with pytest.raises(ConsentRequired):
            await bot.get_token(BRAND, consumer="alice")
        assert len(_renewals(provider)) == asked


async def test_only_the_right_key_restores(tmp_path: Path, start_provider: StartProvider) -> None:
    provider = start_provider(registrations=[clients.BASIC])
    config = make_config(tmp_path / "vault", provider, clients.BASIC)
    secrets, backup = Canaries(), tmp_path / "backup.db"
    answers = await log_in(provider, clients.BASIC, ["alice"])
    for name in ("access_token", "refresh_token"):
        secrets.know(name, str(answers["alice"][name]))
    async with seeding(config) as seeder:
        await seeder.add(answers)
    said = [await tokenvault("backup", backup, "--config", config)]
    said.append(await tokenvault("backup", backup, "--config", config))
    assert [status for status, _, _ in said] == [0, 2]
    other = make_config(tmp_path / "other", provider, clients.BASIC)
    said.append(await tokenvault("restore", backup, "--config", other))
    status, _, complaints = said[-1]
    assert status == 2
    assert "the KEK given is" in complaints
    assert not (other.parent / "tokenvault.db").exists()
    shutil.copy(config.parent / "kek", other.parent / "kek")
    said.append(await tokenvault("restore", backup, "--config", other))
    assert said[-1][0] == 0
    async with running(other) as sidecar, connect(sidecar) as bot:
        await bot.get_token(BRAND, consumer="alice")
    spoken = {str(number): f"{out}{err}".encode() for number, (_, out, err) in enumerate(said)}
    assert secrets.leaks(spoken | files(tmp_path)) == []


def _renewals(provider: OidcProvider) -> list[str | None]:
    return [entry.presented for entry in provider.token_requests(grant_type="refresh_token")]
