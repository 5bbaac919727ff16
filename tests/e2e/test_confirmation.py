"""The confirmation code at real sidecars: shown by one, brought to another, and killed in between."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from tests.authserver import clients
from tests.authserver.consumer import Consumer
from tests.authserver.oidc import OidcProvider
from tests.callback.house import running_house
from tests.e2e.vaults import OTHER_BOT, Whose, brand, connect, eventually, make_vault, running
from tests.ops.ports import get
from tokenvault import (
    AsyncTokenVaultClient,
    ConfirmationCodeWrong,
    ConfirmationRequired,
    DelegationExpired,
    DelegationFailed,
    GrantNotFound,
    InvalidRequest,
    StateNotFound,
)
from tokenvault.aio import PendingChallenge

WHOSE: list[Whose] = [{"consumer": "alice"}, {"conversation": "c-1"}]


def code_on(page: str) -> str:
    """As the consumer reads it."""
    found = re.search(r'class="code"[^>]*>([0-9 ]+)<', page)
    assert found is not None
    return found[1]


def another(code: str, number: int = 1) -> str:
    return f"{(int(code.replace(' ', '')) + number) % 10**8:08}"


async def tries_left(vault: AsyncTokenVaultClient, challenge: PendingChallenge, code: str) -> int:
    with pytest.raises(ConfirmationCodeWrong) as refused:
        await vault.confirm_delegation(challenge.delegation_id, code)
    return refused.value.tries_left


async def test_the_page_shows_a_code_that_unlocks_the_grant_in_the_chat(tmp_path: Path) -> None:
    async with (
        running_house(tmp_path, confirmation_code=True) as house,
        connect(house.inner) as vault,
        connect(house.front) as peer,
        connect(house.inner, OTHER_BOT) as other_bot,
    ):
        for whose in WHOSE:
            challenge = await vault.challenge("acme", **whose)
            told = asyncio.create_task(challenge.outcome())
            shown = await Consumer().come_back(challenge.authorization_url)
            assert shown.status_code == 200
            assert shown.headers["cache-control"] == "no-store"
            code = code_on(shown.text)
            with pytest.raises(ConfirmationRequired) as waits:
                await told
            assert waits.value.delegation_id == challenge.delegation_id
            with pytest.raises(GrantNotFound):
                await vault.get_token("acme", **whose)
            with pytest.raises(ConfirmationRequired) as wanted:
                await peer.get_token("acme", challenge=True, **whose)
            assert wanted.value.delegation_id == challenge.delegation_id
            assert wanted.value.expire_time == waits.value.expire_time
            with pytest.raises(StateNotFound):
                await other_bot.confirm_delegation(challenge.delegation_id, code)
            assert await tries_left(vault, challenge, another(code)) == 4
            assert await tries_left(peer, challenge, another(code, 2)) == 3
            with pytest.raises(InvalidRequest) as malformed:
                await challenge.confirm("it is on the page")
            assert [v.field for v in malformed.value.field_violations] == ["confirmation_code"]
            delegated = await peer.confirm_delegation(challenge.delegation_id, code)
            assert delegated.granted_scopes
            assert delegated == await challenge.confirm(code) == await challenge.outcome()
            assert (await peer.get_token("acme", **whose)).access_token
            again = await Consumer().come_back(challenge.authorization_url)  # the same link once more
            assert "no longer valid" in again.text
            for secret in (code, code.replace(" ", ""), " ".join(code.replace(" ", ""))):
                assert secret not in house.logs
                assert secret not in str(shown.request.url)


@pytest.fixture
def config(oidc_provider: OidcProvider, tmp_path: Path) -> Path:
    table = brand(tmp_path, oidc_provider.issuer, clients.BASIC, confirmation_code=True)
    tables = {"housekeeping": {"interval": "1s"}, "audit": {"path": "audit.jsonl"}}
    return make_vault(tmp_path, {"acme": table}, **tables)


@pytest.fixture
def hurried(config: Path) -> Path:
    """For a sidecar on the same store, whose codes are worth something for a second."""
    hurried = config.with_name("hurried.toml")
    table = config.read_text()
    assert table.count("confirmation_code = true") == 1
    table = table.replace("confirmation_code = true", 'confirmation_code = true, delegation_lifetime = "1s"')
    hurried.write_text(table.replace("audit.jsonl", "hurried.jsonl"))
    (config.parent / "hurried").mkdir()
    return hurried


async def log_in(
    vault: AsyncTokenVaultClient, whose: Whose, *, at: AsyncTokenVaultClient | None = None
) -> tuple[PendingChallenge, str]:
    """A consumer has logged in, and the host of the redirect URI shows them the code."""
    challenge = await vault.challenge("acme", **whose)
    answer = await Consumer().authorize(challenge.authorization_url)
    delegated = await (at or vault).complete_delegation(answer)
    assert delegated.confirmation is not None
    assert delegated.confirmation.code not in repr(delegated)
    return challenge, delegated.confirmation.code


async def test_killed_at_every_step_it_goes_on_where_it_stood(config: Path) -> None:
    whose = WHOSE[0]
    async with running(config) as sidecar, connect(sidecar) as vault:
        first, code = await log_in(vault, whose)
        await first.confirm(code)
        former = await vault.get_token("acme", **whose)
        challenge, code = await log_in(vault, whose)
        sidecar.kill()  # the code is on the consumer's screen
    async with running(config) as sidecar, connect(sidecar) as vault:
        assert (await vault.get_token("acme", **whose)).token_version == former.token_version
        with pytest.raises(ConfirmationRequired):
            await vault.watch_delegation(challenge.delegation_id)
        assert await tries_left(vault, challenge, another(code)) == 4
        sidecar.kill()  # a try is used up
    async with running(config) as sidecar, connect(sidecar) as vault:
        assert await tries_left(vault, challenge, another(code)) == 4
        assert await tries_left(vault, challenge, another(code, 2)) == 3
        unlocked = await vault.confirm_delegation(challenge.delegation_id, code)
        sidecar.kill()  # it is confirmed
    async with running(config) as sidecar, connect(sidecar) as vault:
        assert await vault.confirm_delegation(challenge.delegation_id, code) == unlocked
        assert (await vault.get_token("acme", **whose)).token_version != former.token_version
        guessed, code = await log_in(vault, {"conversation": "guessed"})
        assert [await tries_left(vault, guessed, another(code, n)) for n in range(1, 6)] == [4, 3, 2, 1, 0]
        told = (await get(sidecar, "/metrics")).text
        assert 'tokenvault_confirmations_total{brand="acme",outcome="shown"} 1.0' in told
        assert 'tokenvault_confirmations_total{brand="acme",outcome="wrong"} 5.0' in told
        assert 'tokenvault_confirmations_total{brand="acme",outcome="confirmed"} 0.0' in told
        assert 'tokenvault_delegations_total{brand="acme",outcome="confirmation_code_wrong"} 1.0' in told
        sidecar.kill()  # it is void
    async with running(config) as sidecar, connect(sidecar) as vault:
        assert await tries_left(vault, guessed, code) == 0
        with pytest.raises(DelegationFailed) as failed:
            await vault.watch_delegation(guessed.delegation_id)
        assert failed.value.reason == "CONFIRMATION_CODE_WRONG"
        with pytest.raises(GrantNotFound):
            await vault.get_token("acme", conversation="guessed")
    decisions = [json.loads(line) for line in (config.parent / "audit.jsonl").read_text().splitlines()]
    brought = [line["outcome"] for line in decisions if line.get("rpc") == "ConfirmDelegation"]
    wrong = "CONFIRMATION_CODE_WRONG"
    assert brought == ["OK", *[wrong] * 3, "OK", "OK", *[wrong] * 6]


async def test_a_code_nobody_brings_leaves_nothing_at_either_end(
    config: Path, hurried: Path, oidc_provider: OidcProvider
) -> None:
    async with (
        running(config) as sidecar,
        connect(sidecar) as vault,
        running(hurried, logs=hurried.parent / "hurried") as second,
        connect(second) as peer,
    ):
        challenge, code = await log_in(vault, WHOSE[0], at=peer)
        sidecar.kill()
        second.kill()
    async with running(config) as sidecar, connect(sidecar) as vault:

        async def expired() -> bool:
            try:
                await vault.watch_delegation(challenge.delegation_id)
            except ConfirmationRequired:
                return False
            except DelegationExpired:
                return True
            raise AssertionError("it was never confirmed")

        await eventually(expired)
        with pytest.raises(StateNotFound):
            await vault.confirm_delegation(challenge.delegation_id, code)
        *_, exchange = oidc_provider.token_requests(grant_type="authorization_code")

        async def revoked() -> bool:
            ended = {entry.presented for entry in oidc_provider.log() if entry.event == "revocation"}
            return {exchange.access_token, exchange.refresh_token} <= ended

        await eventually(revoked)
        with pytest.raises(GrantNotFound):
            await vault.get_token("acme", **WHOSE[0])
