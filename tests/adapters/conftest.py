"""The scripted authorization server, and adapters that are closed at the test's end."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.adapters.oauth_world import GIVEN, Connect, oauth_server
from tests.authserver.scripted import Reply, ScriptedServer
from tokenvault_sidecar.adapters.oauth import OAuthServer


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        server.on("/token", Reply(json=GIVEN))
        server.on("/revoke", Reply())
        yield server


@pytest.fixture
async def connect(server: ScriptedServer) -> AsyncIterator[Connect]:
    made: list[OAuthServer] = []

    def make(**given: Any) -> OAuthServer:
        made.append(oauth_server(server, **given))
        return made[-1]

    yield make
    for oauth in made:
        await oauth.aclose()
