"""Consumers who come back to a real sidecar's callback port, from a real authorization server."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.authserver.consumer import Consumer
from tests.callback.house import House, running_house
from tests.e2e.vaults import connect
from tokenvault import AuthorizationDenied, GrantNotFound


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with running_house(tmp_path) as house:
        yield house


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


async def test_a_bot_that_asks_for_a_token_is_given_the_link_with_the_refusal(house: House) -> None:
    async with connect(house.inner) as vault, connect(house.front) as peer:
        links = set()
        for asking in (vault, peer, vault):
            with pytest.raises(GrantNotFound) as refused:
                await asking.get_token("acme", conversation="one-call", challenge=True)
            assert refused.value.challenge is not None
            links.add(refused.value.challenge)
        (link,) = links
        told = asyncio.create_task(vault.watch_delegation(link.delegation_id))
        await Consumer().come_back(link.authorization_url)
        assert (await told).granted_scopes
        assert (await peer.get_token("acme", conversation="one-call", challenge=True)).access_token
        assert link.authorization_url not in house.logs
