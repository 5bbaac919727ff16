"""What happens by itself: renewal before it is due, the end of sessions, revocation."""

import asyncio
import base64
import json
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.authserver import clients, proxy
from tests.authserver.consumer import Consumer
from tests.authserver.fixtures import StartProvider
from tests.authserver.oidc import OidcProvider, sha256
from tests.authserver.plain_client import PlainClient
from tests.authserver.proxy import FaultProxy, delayed, held
from tests.postgres.fixtures import PutStore
from tests.postgres.server import on_store
from tests.renewal.seeding import BRAND, LIFE, log_in, seeding
from tests.renewal.sidecars import CALL_SECONDS, another_version, endpoints, running, tune
from tests.running import make_config
from tokenvault import ConsentRequired, GrantNotFound, Revocation, SessionEnded, Token
from tokenvault.aio import AsyncTokenVaultClient

REVOCATION = "/token/revocation"


async def test_while_a_renewal_waits_for_the_server_no_reader_does(
    tmp_path: Path, start_provider: StartProvider, fault_proxy: FaultProxy, put_store: PutStore
) -> None:
    provider = start_provider(registrations=[clients.BASIC])
    fault_proxy.forward_to(provider.port)
    config = make_config(tmp_path / "vault", provider, clients.BASIC)
    put_store(config)
    tune(config, f"brands.{BRAND}", **endpoints(provider, fault_proxy))
    tune(config, "renewal", redemption_deadline="50s", lease="90s")
    async with seeding(config) as seeder:
        answers = await log_in(provider, clients.BASIC, ["alice"])
        old = (await seeder.add(answers, age=LIFE - 50, due=True))["alice"]
    released = asyncio.Event()
    fault_proxy.queue(held(released))
    async with running(config) as sidecar:
        await fault_proxy.until_acted(1)  # nobody has read yet
        read = [await sidecar.bot.get_token(BRAND, consumer="alice") for _ in range(20)]
        assert {token.token_version for token in read} == {old}
        released.set()
        token = await another_version(sidecar.bot, BRAND, "alice", than=old)
    (redemption,) = provider.token_requests(grant_type="refresh_token")
    assert redemption.access_token == sha256(token.access_token)


async def test_readers_never_find_a_token_that_is_over(
    tmp_path: Path, start_provider: StartProvider, put_store: PutStore
) -> None:
    """Over several lifetimes, each token is replaced while it lives: no read had to wait for the server."""
    provider = start_provider(registrations=[clients.BASIC], access_token_ttl=6)
    config = make_config(tmp_path / "vault", provider, clients.BASIC)
    put_store(config)
    people = [f"consumer-{number}" for number in range(10)]
    async with seeding(config) as seeder:
        await seeder.add(await log_in(provider, clients.BASIC, people), age=LIFE - 30, due=True)

    async def read(person: str) -> list[Token]:
        """Its first three tokens."""
        tokens: list[Token] = []
        async with asyncio.timeout(CALL_SECONDS):
            while len(tokens) < 3:
                token = await sidecar.bot.get_token(BRAND, consumer=person)
                assert not token.degraded
                if not tokens or token.token_version != tokens[-1].token_version:
                    tokens.append(token)
                await asyncio.sleep(0.1)
        return tokens

    async with running(config) as sidecar:
        histories = await asyncio.gather(*(read(person) for person in people))
    redemptions = provider.token_requests(grant_type="refresh_token")
    assert len({entry.presented for entry in redemptions}) == len(redemptions)
    issued_at = {entry.access_token: entry.time for entry in redemptions}
    for tokens in histories:
        for before, after in pairwise(tokens):
            assert before.expire_time is not None
            assert issued_at[sha256(after.access_token)] < before.expire_time.timestamp()


async def test_the_end_of_a_session(tmp_path: Path, oidc_provider: OidcProvider, put_store: PutStore) -> None:
    """Alice's is used by the bot, until its absolute end. Bob's is only read by his brand's service: idle.

    Both grants are deleted in the end, and their refresh tokens revoked.
    """
    config = make_config(tmp_path / "vault", oidc_provider, clients.BASIC)
    put_store(config)
    tune(config, f"brands.{BRAND}.consumer", session_idle="1500ms", session_absolute="4s")
    tune(config, "housekeeping", interval="200ms")
    async with running(config) as sidecar:
        await asyncio.gather(*(delegate(sidecar.bot, person) for person in ("alice", "bob")))
        tokens = [await sidecar.service.get_token(BRAND, consumer=person) for person in ("alice", "bob")]
        alice = asyncio.create_task(read_until_it_fails(sidecar.bot, "alice"))
        assert isinstance(await read_until_it_fails(sidecar.service, "bob"), SessionEnded | GrantNotFound)
        assert not alice.done()
        assert isinstance(await alice, SessionEnded | GrantNotFound)
        refresh_tokens = {issued_with(oidc_provider, token) for token in tokens}
        await until_true(lambda: refresh_tokens <= revoked(oidc_provider))
    assert rows(config, "grants") == 0
    client = PlainClient(oidc_provider, clients.BASIC)
    for token in tokens:
        assert (await client.userinfo(token.access_token)).status_code == 401


async def test_a_revocation_survives_a_restart(
    tmp_path: Path, start_provider: StartProvider, fault_proxy: FaultProxy, put_store: PutStore
) -> None:
    """The server is away when the grant is invalidated, and comes back when another process runs."""
    provider = start_provider(registrations=[clients.BASIC])
    fault_proxy.forward_to(provider.port)
    config = make_config(tmp_path / "vault", provider, clients.BASIC)
    put_store(config)
    tune(config, f"brands.{BRAND}", **endpoints(provider, fault_proxy))
    tune(config, "housekeeping", interval="200ms")
    (answer,) = (await log_in(provider, clients.BASIC, ["alice"])).values()
    async with seeding(config) as seeder:
        await seeder.add({"alice": answer})
    away = asyncio.Event()
    fault_proxy.queue(delayed(away), on=REVOCATION)
    fault_proxy.set(proxy.RESET_BEFORE, on=REVOCATION)
    async with running(config) as sidecar:
        revocation = await sidecar.bot.invalidate(BRAND, consumer="alice")  # answered before it is done
        assert revocation is Revocation.QUEUED
        await fault_proxy.until_count(2, on=REVOCATION)
        fault_proxy.forward_to(1)  # nobody is there any more
        away.set()
        with pytest.raises(GrantNotFound):
            await sidecar.bot.get_token(BRAND, consumer="alice")
    assert rows(config, "revocations") == 2
    assert revoked(provider) == set()
    on_store(config, "UPDATE revocations SET due_at = due_at - 120")  # two minutes later
    fault_proxy.clear()
    fault_proxy.forward_to(provider.port)
    tokens = {sha256(str(answer[name])) for name in ("refresh_token", "access_token")}
    async with running(config):
        await until_true(lambda: rows(config, "revocations") == 0)
    assert revoked(provider) == tokens
    client = PlainClient(provider, clients.BASIC)
    assert (await client.refresh(str(answer["refresh_token"]))).json()["error"] == "invalid_grant"
    assert (await client.userinfo(str(answer["access_token"]))).status_code == 401


async def test_the_id_token_is_renewed_together_with_the_access_token(
    tmp_path: Path, start_provider: StartProvider, put_store: PutStore
) -> None:
    provider = start_provider(registrations=[clients.BASIC], id_token_ttl=2)
    config = make_config(tmp_path / "vault", provider, clients.BASIC)
    put_store(config)
    async with running(config) as sidecar:
        await delegate(sidecar.bot, "alice")

        async def read(rejected: str | None = None) -> Token:
            return await sidecar.bot.get_token(
                BRAND, consumer="alice", include_id_token=True, rejected_token_version=rejected
            )

        first = await read()
        await until_true(lambda: time.time() > claims(first)["iat"] + 1)
        second = await read(first.token_version)
        assert claims(second)["iat"] > claims(first)["iat"]
        # the access token lives on: the id token that is over is not served with it
        async with asyncio.timeout(CALL_SECONDS):
            while (later := await read()).id_token is not None:
                assert later.id_token == second.id_token
                await asyncio.sleep(0.1)
        assert later.token_version == second.token_version
        third = await read(second.token_version)
        assert claims(third)["iat"] >= claims(second)["exp"]


async def delegate(bot: AsyncTokenVaultClient, person: str) -> None:
    """The person logs in, and delegates."""
    challenge = await bot.start_delegation(BRAND, consumer=person)
    await bot.complete_delegation(await Consumer().authorize(challenge.authorization_url, person))


async def read_until_it_fails(client: AsyncTokenVaultClient, person: str) -> ConsentRequired:
    """What it fails with."""
    async with asyncio.timeout(CALL_SECONDS):
        while True:
            try:
                await client.get_token(BRAND, consumer=person)
            except ConsentRequired as error:
                return error
            await asyncio.sleep(0.1)


async def until_true(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(CALL_SECONDS):
        while not condition():  # noqa: ASYNC110 other processes make it so
            await asyncio.sleep(0.05)


def issued_with(provider: OidcProvider, token: Token) -> str | None:
    """The SHA-256 of the refresh token that came with this access token."""
    issued = sha256(token.access_token)
    (entry,) = [entry for entry in provider.token_requests() if entry.access_token == issued]
    return entry.refresh_token


def revoked(provider: OidcProvider) -> set[str | None]:
    """The tokens that were asked to be revoked."""
    return {entry.presented for entry in provider.log() if entry.event == "revocation"}


def rows(config: Path, table: str) -> int:
    return int(on_store(config, f"SELECT count(*) FROM {table}")[0][0])


def claims(token: Token) -> dict[str, Any]:
    """What its id token says."""
    assert token.id_token is not None
    payload = token.id_token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=="))
    return found
