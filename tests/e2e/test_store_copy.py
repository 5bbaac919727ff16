"""From one machine to many, and back: no consumer is asked again."""

from pathlib import Path

import pytest

from tests.authserver import clients
from tests.authserver.oidc import OidcProvider
from tests.e2e.commands import tokenvault
from tests.e2e.people import call_api, delegate
from tests.e2e.vaults import brand, connect, make_vault, running
from tests.postgres.server import PostgresServer, move_to


def moved_to(server: PostgresServer, config: Path) -> tuple[Path, str]:
    """The same configuration with its store in a new database, and that one's URL."""
    moved = config.with_name("moved.toml")
    moved.write_text(config.read_text())
    return moved, server.url(move_to(server, moved))


async def test_there_and_back(
    tmp_path: Path, oidc_provider: OidcProvider, postgres_server: PostgresServer
) -> None:
    folder = tmp_path / "vault"
    config = make_vault(folder, {"acme": brand(folder, oidc_provider.issuer, clients.BASIC)})
    moved, url = moved_to(postgres_server, config)
    file = str(folder / "tokenvault.db")
    access = ("--password-file", str(postgres_server.password_file), "--sslmode", "disable")

    async with running(config) as sidecar, connect(sidecar) as bot:
        await delegate(bot, "acme", consumer="alice")
        first = await bot.get_token("acme", consumer="alice")
        status, _, said = await tokenvault("store", "copy", "--from", file, "--to", url, *access)
        assert (status, said) == (2, f"{file}: a process has it open: stop the sidecar first\n")
    status, out, said = await tokenvault("store", "copy", "--from", file, "--to", url, *access)
    assert (status, said) == (0, "")
    assert out.endswith(f"{url}: 2 rows and the keys, the same as in {file}\n")

    async with running(moved) as sidecar, connect(sidecar) as bot:
        assert await bot.get_token("acme", consumer="alice") == first
        renewed = await bot.get_token("acme", consumer="alice", rejected_token_version=first.token_version)
        assert await call_api(oidc_provider, renewed) == 200
        back = str(folder / "back.db")
        status, _, said = await tokenvault("store", "copy", "--from", url, "--to", back, *access)
        assert status == 2
        assert "connections of sidecars are open: stop them first" in said
        status, out, said = await tokenvault("stats", "--config", moved)
        assert (status, said) == (0, "")
        assert f"{url}, schema " in out
    status, _, said = await tokenvault("store", "copy", "--from", file, "--to", url, *access)
    assert (status, said) == (2, f"{url}: is a store in use: name an empty one, nothing was written\n")
    status, _, said = await tokenvault("store", "copy", "--from", url, "--to", back, *access)
    assert (status, said) == (0, "")

    config.write_text(config.read_text().replace("tokenvault.db", "back.db"))
    async with running(config) as sidecar, connect(sidecar) as bot:
        assert await bot.get_token("acme", consumer="alice") == renewed
        again = await bot.get_token("acme", consumer="alice", rejected_token_version=renewed.token_version)
        assert await call_api(oidc_provider, again) == 200


async def test_a_restored_database_is_ambiguous(
    tmp_path: Path, oidc_provider: OidcProvider, postgres_server: PostgresServer
) -> None:
    folder = tmp_path / "vault"
    config = make_vault(folder, {"acme": brand(folder, oidc_provider.issuer, clients.BASIC)})
    status, _, said = await tokenvault("store", "restored", "--config", config, "--yes")
    assert status == 2
    assert "is a file: `tokenvault restore` does it all" in said
    moved, _ = moved_to(postgres_server, config)
    async with running(moved) as sidecar, connect(sidecar) as bot:
        await delegate(bot, "acme", consumer="alice")
        before = await bot.get_token("acme", consumer="alice")
    for command in ("backup", "restore"):
        status, _, said = await tokenvault(command, tmp_path / "dump", "--config", moved)
        assert status == 2
        assert "pg_dump and pg_restore" in said
    status, out, _ = await tokenvault("store", "restored", "--config", moved, "--yes")
    assert status == 0
    assert out.endswith("1 grants, all of them ambiguous until they are renewed\n")
    status, out, _ = await tokenvault("stats", "--config", moved)
    assert "ambiguous grants             1" in out
    async with running(moved) as sidecar, connect(sidecar) as bot:
        assert await bot.get_token("acme", consumer="alice") == before
        after = await bot.get_token("acme", consumer="alice", rejected_token_version=before.token_version)
        assert await call_api(oidc_provider, after) == 200


@pytest.mark.parametrize(
    ("target", "more", "said"),
    [
        ("postgresql://u:secret@h/d", (), "the database's URL: has a password in it"),
        ("postgresql://u@h.example/d", ("--sslmode", "disable"), "--sslmode is not safe in transit"),
        ("mysql://h/d", (), "the database's URL: is no URL of a PostgreSQL database"),
    ],
)
async def test_a_database_that_is_none(tmp_path: Path, target: str, more: tuple[str, ...], said: str) -> None:
    (tmp_path / "x.db").touch()
    status, out, told = await tokenvault("store", "copy", "--from", tmp_path / "x.db", "--to", target, *more)
    assert (status, out) == (2, "")
    assert said in told
    assert "secret" not in told
