"""Settings, and what discovery adds to them."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.oauth_world import GIVEN, REFRESH, SECRET, Connect, with_endpoints
from tests.authserver.scripted import Reply, ScriptedServer
from tokenvault_sidecar.adapters.client_auth import ClientAuth
from tokenvault_sidecar.adapters.oauth import OAuthServer, ServerSettings
from tokenvault_sidecar.core.errors import InvalidIdToken, ServerMisconfigured, ServerUnavailable
from tokenvault_sidecar.core.model import Secret


async def test_prepare_tells_the_facts_and_fetches_the_keys(server: ScriptedServer, connect: Connect) -> None:
    oauth = connect()
    assert oauth.facts is None
    facts = await oauth.prepare(keys=True)
    assert oauth.facts == facts
    assert (facts.issuer, facts.sends_iss, facts.revokes) == (server.issuer, True, True)
    assert len(server.requests("/jwks")) == 1
    await server.stop()
    assert await oauth.prepare(keys=True) == facts
    token = Secret(server.mint())
    claims = await oauth.verify_id_token(token, nonce=Secret("n-1"), now=time.time())
    assert claims.subject == "alice"


async def test_prepare_without_keys_to_have(server: ScriptedServer, connect: Connect) -> None:
    del server.metadata["jwks_uri"]
    oauth = connect()
    await oauth.prepare()
    with pytest.raises(ServerMisconfigured, match="no keys to verify id tokens with"):
        await oauth.verify_id_token(Secret(server.mint()), nonce=None, now=time.time())


async def test_prepare_fails_where_the_server_is_away(server: ScriptedServer, connect: Connect) -> None:
    await server.stop()
    with pytest.raises(ServerUnavailable):
        await connect().prepare()


async def test_prepare_refuses_the_document_of_another_issuer(
    server: ScriptedServer, connect: Connect
) -> None:
    server.metadata["issuer"] = "https://evil.example"
    oauth = connect()
    with pytest.raises(ServerMisconfigured):
        await oauth.prepare()
    with pytest.raises(ServerMisconfigured):
        await oauth.refresh(REFRESH)
    assert server.requests("/token") == []


async def test_explicit_endpoints_fetch_nothing(server: ScriptedServer) -> None:
    server.on("/token", Reply(json=GIVEN))
    keys = json.dumps({"keys": [key.as_dict(private=False) for key in server.keys]})
    oauth = with_endpoints(server.url, development=True, static_keys=keys, sends_iss=True)
    facts = await oauth.prepare()
    assert (facts.issuer, facts.sends_iss, facts.revokes) == (server.url, True, False)
    assert await oauth.refresh(REFRESH) == GIVEN
    claims = await oauth.verify_id_token(Secret(server.mint()), nonce=None, now=time.time())
    assert claims.subject == "alice"
    await oauth.aclose()
    assert [seen.path for seen in server.seen] == ["/token"]


async def test_configured_endpoint_wins_over_a_discovered_one(
    server: ScriptedServer, connect: Connect
) -> None:
    oauth = connect(revocation_endpoint=server.url + "/other-revoke", sends_iss=False)
    server.on("/other-revoke", Reply())
    assert not (await oauth.prepare()).sends_iss
    await oauth.revoke(REFRESH, hint="refresh_token")
    assert len(server.requests("/other-revoke")) == 1


async def test_bad_id_token(server: ScriptedServer, connect: Connect) -> None:
    with pytest.raises(InvalidIdToken, match="'acme'"):
        await connect().verify_id_token(Secret(server.mint("aud")), nonce=Secret("n-1"), now=time.time())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"issuer": "http://as.example"}, "issuer: not https"),
        ({"issuer": "https://as.example?x=1"}, "issuer: holds a query"),
        ({"issuer": "https://as.example#x"}, "issuer: "),
        ({"token_endpoint": "https://as.example/t"}, "give both"),
        ({"authorization_endpoint": "https://as.example/a"}, "give both"),
        ({"revocation_endpoint": "http://127.0.0.1/r"}, "revocation_endpoint: not https"),
        ({"jwks_uri": "jwks.json"}, "jwks_uri: not an absolute https URL"),
        ({"id_token_algorithms": ("HS256", "none")}, "not allowed: HS256, none"),
        ({"id_token_algorithms": ()}, "id_token_algorithms: none"),
        ({"client_secret": None}, "client_secret: client_secret_basic needs one"),
        ({"client_auth": ClientAuth.PRIVATE_KEY_JWT}, "private_key: private_key_jwt needs one"),
        ({"static_keys": "nonsense"}, "static_keys: holds neither"),
        ({"ca_file": Path("/nowhere/ca.pem")}, "ca_file /nowhere/ca.pem"),
    ],
)
def test_wrong_settings(given: dict[str, Any], says: str) -> None:
    settings = {"issuer": "https://as.example", "client_id": "client", "client_secret": Secret("s"), **given}
    with pytest.raises(ValueError, match=says):
        OAuthServer(ServerSettings(**settings), brand="acme")


def test_settings_show_no_secret() -> None:
    settings = ServerSettings(
        "https://as.example", "client", client_secret=Secret(SECRET), static_keys="x-canary"
    )
    assert "canary" not in repr(settings)
