"""What was never sent, and what is in time: asking again is safe or it is not."""

import asyncio
import socket
import time
from pathlib import Path

import pytest

from tests.adapters.oauth_world import (
    GIVEN,
    REFRESH,
    SECRET,
    Connect,
    holds_no_secret,
    never_sent,
    oauth_server,
    server_tls,
    with_endpoints,
)
from tests.authserver.scripted import Reply, ScriptedServer
from tokenvault_sidecar.adapters.http_client import Answer, Miss, new_client, send
from tokenvault_sidecar.adapters.oauth import OAuthServer, ServerSettings
from tokenvault_sidecar.core.errors import AnswerLost, ServerMisconfigured, ServerUnavailable
from tokenvault_sidecar.core.model import Secret
from tokenvault_sidecar.devkit import DevelopmentCA


async def test_refused_connection_was_never_sent(server: ScriptedServer, connect: Connect) -> None:
    oauth = connect()
    await oauth.prepare()
    await server.stop()
    await never_sent(oauth)


async def test_unknown_host_was_never_sent() -> None:
    settings = ServerSettings(
        "https://as.invalid",
        "client",
        client_secret=Secret(SECRET),
        authorization_endpoint="https://as.invalid/authorize",
        token_endpoint="https://as.invalid/token",
    )
    oauth = OAuthServer(settings, brand="acme")
    await never_sent(oauth)
    await oauth.aclose()


async def test_handshake_that_never_ends_was_never_sent() -> None:
    """The peer accepts the connection and says nothing: no TLS session, no request."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        oauth = with_endpoints(f"https://127.0.0.1:{listener.getsockname()[1]}", deadline=0.3)
        await never_sent(oauth)
        await oauth.aclose()


async def test_tls_that_is_none_was_never_sent(server: ScriptedServer) -> None:
    oauth = with_endpoints(server.url.replace("http:", "https:"))
    await never_sent(oauth)
    await oauth.aclose()


async def test_waiting_for_a_free_connection_was_never_sent(server: ScriptedServer, connect: Connect) -> None:
    oauth = connect(deadline=4.0)
    await oauth.prepare()
    server.on("/token", Reply(delay=60))
    results = await asyncio.gather(*(oauth.refresh(REFRESH) for _ in range(60)), return_exceptions=True)
    kinds = [type(result) for result in results]
    assert kinds.count(AnswerLost) == len(server.requests("/token")) == 50
    assert kinds.count(ServerUnavailable) == 10


async def test_request_that_leaves_no_time_for_its_answer_is_not_sent(server: ScriptedServer) -> None:
    now = asyncio.get_running_loop().time()
    async with new_client(None, deadline=10) as client:
        url = server.url + "/token"
        late = await send(client, "POST", url, until=now + 10, send_by=now - 1, limit=1000, form="a=b")
        assert late is Miss.UNSENT
        assert server.seen == []
        answer = await send(client, "POST", url, until=now + 10, send_by=now + 9, limit=1000)
        assert isinstance(answer, Answer)


async def test_untrusted_certificate_is_the_operators_problem(tmp_path: Path) -> None:
    ca = DevelopmentCA.create("test CA")
    async with ScriptedServer(tls=server_tls(ca, tmp_path, ips=["127.0.0.1"])) as server:
        oauth = with_endpoints(server.url)
        with pytest.raises(ServerMisconfigured, match="set ca_file") as caught:
            await oauth.refresh(REFRESH)
        holds_no_secret(caught.value)
        await oauth.aclose()
        discovering = oauth_server(server)
        with pytest.raises(ServerMisconfigured, match="set ca_file"):
            await discovering.prepare()
        await discovering.aclose()
        assert server.seen == []


async def test_certificate_of_another_name_is_the_operators_problem(tmp_path: Path) -> None:
    ca = DevelopmentCA.create("test CA")
    (tmp_path / "ca.pem").write_bytes(ca.certificate_pem)
    async with ScriptedServer(tls=server_tls(ca, tmp_path, dns=["as.example"])) as server:
        oauth = with_endpoints(server.url, ca_file=tmp_path / "ca.pem")
        with pytest.raises(ServerMisconfigured, match="certificate"):
            await oauth.refresh(REFRESH)
        await oauth.aclose()
        assert server.seen == []


async def test_https_with_the_brands_own_ca(tmp_path: Path) -> None:
    ca = DevelopmentCA.create("test CA")
    (tmp_path / "ca.pem").write_bytes(ca.certificate_pem)
    async with ScriptedServer(tls=server_tls(ca, tmp_path, ips=["127.0.0.1"])) as server:
        server.on("/token", Reply(json=GIVEN))
        oauth = oauth_server(server, ca_file=tmp_path / "ca.pem", development=False)
        assert (await oauth.prepare()).issuer == server.issuer
        assert await oauth.refresh(REFRESH) == GIVEN
        await oauth.aclose()


async def test_one_deadline_for_metadata_and_answer(server: ScriptedServer, connect: Connect) -> None:
    discovery = Reply(json=server.metadata, delay=0.3)
    server.on("/.well-known/openid-configuration", discovery)
    server.on("/token", Reply(delay=60))
    started = time.monotonic()
    with pytest.raises(AnswerLost):
        await connect(deadline=3.0).refresh(REFRESH)
    assert time.monotonic() - started < 30


async def test_slow_discovery_was_never_sent(server: ScriptedServer, connect: Connect) -> None:
    server.on("/.well-known/openid-configuration", Reply(delay=60))
    await never_sent(connect(deadline=0.4))


async def test_cancelled_call_is_cancelled(server: ScriptedServer, connect: Connect) -> None:
    server.on("/token", Reply(delay=60))
    call = asyncio.create_task(connect().refresh(REFRESH))
    await server.arrived("/token")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
