"""The requests and the link, as the server and the browser see them."""

from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.adapters.oauth_world import CODE, GIVEN, REFRESH, VERIFIER, Connect, exchange, request_of
from tests.authserver.scripted import Reply, ScriptedServer


async def test_exchange_sends_the_code_and_what_belongs_to_it(
    server: ScriptedServer, connect: Connect
) -> None:
    assert await exchange(connect()) == GIVEN
    (seen,) = server.requests("/token")
    assert seen.method == "POST"
    assert seen.headers["content-type"].startswith("application/x-www-form-urlencoded")
    assert seen.headers["accept"] == "application/json"
    assert seen.form == {
        "grant_type": "authorization_code",
        "code": CODE.reveal(),
        "redirect_uri": "https://bot.example/cb?a=1",
        "code_verifier": VERIFIER.reveal(),
    }


async def test_refresh_sends_the_refresh_token(server: ScriptedServer, connect: Connect) -> None:
    assert await connect().refresh(REFRESH) == GIVEN
    assert server.requests("/token")[0].form == {
        "grant_type": "refresh_token",
        "refresh_token": REFRESH.reveal(),
    }


async def test_no_cookie_goes_from_one_consumer_to_the_next(server: ScriptedServer, connect: Connect) -> None:
    server.on("/token", Reply(json=GIVEN, headers={"Set-Cookie": "session=someone; Path=/"}))
    oauth = connect()
    await oauth.refresh(REFRESH)
    await oauth.refresh(REFRESH)
    assert all("cookie" not in seen.headers for seen in server.seen)


async def test_proxies_of_the_environment_are_not_heeded(
    server: ScriptedServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert await connect().refresh(REFRESH) == GIVEN


async def test_connections_are_kept_and_one_the_server_closed_is_not_used(
    server: ScriptedServer, connect: Connect
) -> None:
    oauth = connect()
    await oauth.refresh(REFRESH)
    await oauth.refresh(REFRESH)
    assert server.connections == 1
    server.on("/token", Reply(json=GIVEN, keep_alive=False))
    for _ in range(5):
        assert await oauth.refresh(REFRESH) == GIVEN
        await server.all_closed()


async def test_link_for_the_browser(server: ScriptedServer, connect: Connect) -> None:
    url = urlsplit(
        await connect().authorization_url(request_of(parameters={"prompt": "consent", "login_hint": ""}))
    )
    assert f"{url.scheme}://{url.netloc}{url.path}" == server.url + "/authorize"
    assert "+" not in url.query, "a space is %20: not every server reads a plus as one"
    assert dict(parse_qsl(url.query)) == {
        "response_type": "code",
        "client_id": "client",
        "redirect_uri": "https://bot.example/cb?a=1",
        "scope": "openid profile",
        "state": "state-1",
        "nonce": "nonce-1",
        "code_challenge": "challenge-1",
        "code_challenge_method": "S256",
        "prompt": "consent",
    }


async def test_link_keeps_the_endpoints_own_query_and_names_nothing_twice(
    server: ScriptedServer, connect: Connect
) -> None:
    server.metadata["authorization_endpoint"] = (
        server.url
        + "/authorize?tenant=a%26b&empty=&response_type=token&client_id=evil&prompt=none&request=jar"
    )
    url = urlsplit(await connect().authorization_url(request_of(parameters={"prompt": "consent"})))
    pairs = parse_qsl(url.query, keep_blank_values=True)
    assert len({name for name, _ in pairs}) == len(pairs)
    sent = dict(pairs)
    assert (sent["tenant"], sent["empty"], sent["prompt"]) == ("a&b", "", "consent")
    assert (sent["response_type"], sent["client_id"]) == ("code", "client")
    assert "request" not in sent


async def test_parameters_cannot_override_the_protocols(server: ScriptedServer, connect: Connect) -> None:
    plain = await connect().authorization_url(request_of())
    names = [name for name, _ in parse_qsl(urlsplit(plain).query)]
    hostile = dict.fromkeys([*names, "request", "request_uri"], "evil")
    assert await connect().authorization_url(request_of(parameters=hostile)) == plain


async def test_link_without_scopes(server: ScriptedServer, connect: Connect) -> None:
    assert "scope=" not in await connect().authorization_url(request_of(scopes=()))
