"""Watching a delegation at a real sidecar, and through another one on the same store."""

import asyncio
import time
from pathlib import Path

import pytest

from tests.authserver import clients
from tests.authserver.consumer import Consumer
from tests.authserver.oidc import OidcProvider
from tests.e2e.vaults import OTHER_BOT, brand, connect, make_vault, running
from tokenvault import AuthorizationDenied, DelegationExpired, StateNotFound, Unavailable


@pytest.fixture
def config(oidc_provider: OidcProvider, tmp_path: Path) -> Path:
    table = brand(tmp_path, oidc_provider.issuer, clients.BASIC)
    hurried = table | {"delegation_lifetime": "1s"}
    return make_vault(tmp_path, {"acme": table, "hurried": hurried})


async def test_the_bot_is_told_within_a_second_whichever_process_completed_it(
    config: Path, tmp_path: Path
) -> None:
    logs = tmp_path / "second"
    logs.mkdir()
    async with (
        running(config) as sidecar,
        running(config, logs=logs) as second,
        connect(sidecar) as vault,
        connect(second) as peer,
    ):
        for completing in (vault, peer):
            challenge = await vault.challenge("acme", consumer="alice")
            told = asyncio.create_task(challenge.outcome())
            answer = await Consumer().authorize(challenge.authorization_url)
            delegated = await completing.complete_delegation(answer)
            done = time.monotonic()
            assert await told == delegated
            assert time.monotonic() - done < 5.0
            assert (await vault.get_token("acme", consumer="alice")).access_token
            assert await peer.watch_delegation(challenge.delegation_id) == delegated


async def test_declined_expired_and_another_caller_s(config: Path) -> None:
    async with running(config) as sidecar, connect(sidecar) as vault, connect(sidecar, OTHER_BOT) as other:
        challenge = await vault.challenge("acme", conversation="c-1")
        with pytest.raises(StateNotFound):
            await other.watch_delegation(challenge.delegation_id)
        answer = await Consumer().authorize(challenge.authorization_url, decline="consent")
        with pytest.raises(AuthorizationDenied):
            await vault.complete_delegation(answer)
        with pytest.raises(AuthorizationDenied):
            await challenge.outcome()
        late = await vault.challenge("hurried", conversation="c-1")
        with pytest.raises(DelegationExpired):
            await late.outcome()


async def test_a_watch_holds_up_no_stop_and_goes_on_at_the_next_process(config: Path) -> None:
    async with running(config) as sidecar, connect(sidecar) as vault:
        challenge = await vault.challenge("acme", conversation="c-1")
        watching = asyncio.create_task(vault.watch_delegation(challenge.delegation_id, timeout=2.0))
        await asyncio.sleep(0.3)
        begun = time.monotonic()
        await asyncio.to_thread(sidecar.stop)
        assert time.monotonic() - begun < 10.0  # the drain is 30 s
        with pytest.raises(Unavailable):
            await watching
    async with running(config) as sidecar, connect(sidecar) as vault:
        told = asyncio.create_task(vault.watch_delegation(challenge.delegation_id))
        answer = await Consumer().authorize(challenge.authorization_url)
        assert await vault.complete_delegation(answer) == await told
