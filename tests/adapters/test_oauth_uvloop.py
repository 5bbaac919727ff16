"""The adapter on the loop the sidecar runs on: its exceptions are not the stock loop's."""

import asyncio
from pathlib import Path

import pytest
import uvloop

from tests.adapters.oauth_world import (
    GIVEN,
    REFRESH,
    never_sent,
    oauth_server,
    refusal,
    server_tls,
    with_endpoints,
)
from tests.authserver.scripted import Reply, ScriptedServer
from tokenvault_sidecar.core.errors import AnswerLost, InvalidGrant, ServerMisconfigured, ServerUnavailable
from tokenvault_sidecar.devkit import DevelopmentCA


def test_runs_on_uvloop_too(tmp_path: Path) -> None:
    async def play() -> None:
        ca = DevelopmentCA.create("test CA")
        (tmp_path / "ca.pem").write_bytes(ca.certificate_pem)
        async with ScriptedServer(tls=server_tls(ca, tmp_path, ips=["127.0.0.1"])) as server:
            oauth = oauth_server(server, ca_file=tmp_path / "ca.pem", deadline=3.0)
            await oauth.prepare()
            server.on("/token", Reply(json=GIVEN))
            for _ in range(3):
                assert await oauth.refresh(REFRESH) == GIVEN
            assert server.connections == 1
            for reply, kind in (
                (Reply(delay=60), AnswerLost),
                (Reply(close="before"), AnswerLost),
                (Reply(close="after"), AnswerLost),
                (Reply(status=503), ServerUnavailable),
                (refusal("invalid_grant"), InvalidGrant),
            ):
                server.on("/token", reply)
                with pytest.raises(kind) as caught:
                    await oauth.refresh(REFRESH)
                assert type(caught.value) is kind
            await server.stop()
            await never_sent(oauth)
            await oauth.aclose()
            stranger = with_endpoints(server.url)
            await never_sent(stranger)
            await stranger.aclose()
        async with ScriptedServer() as server:
            oauth = oauth_server(server)
            server.on("/token", Reply(json=GIVEN, keep_alive=False))
            for _ in range(3):
                assert await oauth.refresh(REFRESH) == GIVEN
                await server.all_closed()
            await oauth.aclose()
        async with ScriptedServer(tls=server_tls(ca, tmp_path, ips=["127.0.0.1"])) as server:
            stranger = with_endpoints(server.url)
            with pytest.raises(ServerMisconfigured, match="ca_file"):
                await stranger.refresh(REFRESH)
            await stranger.aclose()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play())
