"""Consumers who come back to a real sidecar's callback port, from a real authorization server."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import pytest_asyncio

from tests.authserver import clients
from tests.authserver.consumer import Consumer
from tests.authserver.oidc import OidcProvider
from tests.e2e.vaults import brand, connect, make_vault, running
from tests.running import SidecarProcess
from tokenvault import AuthorizationDenied, GrantNotFound


@dataclass
class House:
    """Two sidecars on one store: one takes consumers back, bots call the other."""

    front: SidecarProcess
    inner: SidecarProcess

    @property
    def logs(self) -> str:
        return "".join(process.stderr.read_text() for process in (self.front, self.inner))


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    uri = f"http://{address}/callback/acme/redirectCode"
    registration = replace(clients.BASIC, redirect_uris=(uri,))
    async with OidcProvider(registrations=[registration]) as provider:
        table = brand(tmp_path, provider.issuer, registration, page={"name": "Acme Stores"})
        path = "/callback/{brand}/redirectCode"
        config = make_vault(tmp_path, {"acme": table}, callback={"listen": address, "path": path})
        inner = config.with_name("inner.toml")
        inner.write_text(config.read_text().replace(address, "127.0.0.1:0", 1))
        logs = tmp_path / "inner"
        logs.mkdir()
        async with running(config) as front, running(inner, logs=logs) as within:
            yield House(front, within)


async def test_the_bot_is_told_within_a_second_and_reads_the_token(house: House) -> None:
    for process, whose in ((house.front, "at-the-front"), (house.inner, "within")):
        async with connect(process) as vault:
            challenge = await vault.challenge("acme", conversation=whose)
            told = asyncio.create_task(challenge.outcome())
            shown = await Consumer().come_back(challenge.authorization_url)
            done = time.monotonic()
            assert (await told).granted_scopes
            assert time.monotonic() - done < 1.0
            assert shown.status_code == 200
            assert "You are logged in" in shown.text
            assert "Acme Stores" in shown.text
            assert (await vault.get_token("acme", conversation=whose)).access_token
            query = shown.request.url.params
            for secret in (query["code"], query["state"]):
                assert secret not in shown.text
                assert secret not in house.logs


async def test_one_who_declines_leaves_nothing_and_the_bot_is_told(house: House) -> None:
    async with connect(house.inner) as vault:
        challenge = await vault.challenge("acme", consumer="alice")
        shown = await Consumer().come_back(challenge.authorization_url, decline="consent")
        assert "You have not agreed" in shown.text
        with pytest.raises(AuthorizationDenied):
            await challenge.outcome()
        with pytest.raises(GrantNotFound):
            await vault.get_token("acme", consumer="alice")
