"""Who administers the database learns nothing: not from its tables, its log of writes, or what it logs."""

import asyncio
from pathlib import Path

from tests.authserver.scripted import Reply, ScriptedServer
from tests.e2e.canaries import Canaries, files
from tests.e2e.commands import tokenvault
from tests.e2e.scripted import consent, issuing, scripted_brand, token_path
from tests.e2e.vaults import Whose, connect, make_vault, running
from tests.postgres.server import PostgresServer, move_to


async def test_no_secret_and_nobodys_id_is_on_the_databases_disk(tmp_path: Path) -> None:
    """It logs every statement, and by a whole delegation, renewals, a rotation of keys and an Invalidate."""
    secrets = Canaries()
    subject, anna, chat = (secrets.plant(name) for name in ("subject", "consumer", "conversation"))
    with PostgresServer(durable=True, settings={"log_statement": "all"}) as database:
        async with ScriptedServer() as server:

            def remembering(seen: object) -> Reply:
                reply = issuing(server)(seen)  # type: ignore[arg-type]  # as it came
                assert isinstance(reply.json, dict)
                for member in ("access_token", "refresh_token", "id_token"):
                    secrets.know(member, str(reply.json[member]))
                return reply

            server.on(token_path("acme"), remembering)
            server.on("/acme/revoke", Reply())
            config = make_vault(tmp_path / "vault", {"acme": scripted_brand(server, "acme")})
            name = move_to(database, config)
            secrets.know("KEK", (config.parent / "kek").read_text().strip())
            async with running(config) as sidecar, connect(sidecar) as bot:
                for whose in (Whose(consumer=anna), Whose(conversation=chat)):
                    challenge = await bot.start_delegation("acme", **whose)
                    response = consent(server, challenge, subject)
                    secrets.know("state", response["state"])
                    secrets.know("code", response["code"])
                    await bot.complete_delegation(response)
                pending = await bot.start_delegation("acme", consumer=anna)
                secrets.know("link", pending.authorization_url)
                first = await bot.get_token("acme", consumer=anna)
                again = await bot.get_token("acme", consumer=anna, rejected_token_version=first.token_version)
                assert again.access_token != first.access_token
                status, _, said = await tokenvault("keys", "rotate", "--config", config)
                assert (status, said) == (0, "")
                await bot.invalidate("acme", conversation=chat)
        assert len(secrets) > 10
        assert "UPDATE grants" in database.log
        ((oid,),) = database.sql("SELECT oid FROM pg_database WHERE datname = %s", "postgres", name)
        await asyncio.to_thread(database.stop)  # writes all it has
        places = await asyncio.to_thread(written, database, str(oid))
        assert any(b"acme" in content for content in places.values()), "what is plain is found"
        assert secrets.leaks(places) == []


def written(database: PostgresServer, folder: str) -> dict[str, bytes]:
    """Its tables and indexes, the write-ahead log and the server's log; without pages that are empty."""
    places = files(database.data / "base" / folder) | files(database.data / "pg_wal")
    return {path: content.rstrip(b"\0") for path, content in places.items()} | {"log": database.log.encode()}
