"""Both flows from challenge to revocation, at a certified authorization server."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.authserver import clients
from tests.authserver.consumer import Consumer
from tests.authserver.oidc import LogEntry, OidcProvider, sha256
from tests.e2e.people import call_api, delegate
from tests.e2e.vaults import (
    BOT,
    OTHER_BOT,
    SERVICE,
    STRANGER,
    Whose,
    brand,
    complaints,
    connect,
    eventually,
    make_vault,
    running,
)
from tests.postgres.server import move_to
from tests.running import SidecarProcess, caller_files
from tokenvault import (
    AsyncTokenVaultClient,
    AuthorizationDenied,
    GrantExpired,
    GrantNotFound,
    InvalidRequest,
    PolicyDenied,
    Revocation,
    SessionEnded,
    StateNotFound,
    SubjectMismatch,
    Token,
    TokenVaultError,
    UnknownCaller,
    VaultUnreachable,
)
from tokenvault_sidecar.devkit import DevelopmentCA

AUTHENTICATED = {
    "basic": clients.BASIC,
    "post": clients.POST,
    "key": clients.PRIVATE_KEY_JWT,
    "public": clients.PUBLIC,
    "es256": clients.ES256,
}
"""A brand for each way a client authenticates, and one whose id tokens are signed otherwise."""

EVERY_BRAND = pytest.mark.parametrize("name", AUTHENTICATED)


@pytest.fixture(scope="module")
def brief_provider() -> Iterator[OidcProvider]:
    """Its access tokens live for three seconds."""
    with OidcProvider(registrations=[clients.BASIC], access_token_ttl=3) as provider:
        yield provider


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def sidecar(
    request: pytest.FixtureRequest,
    oidc_provider: OidcProvider,
    brief_provider: OidcProvider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[SidecarProcess]:
    folder = tmp_path_factory.mktemp("vault")
    brands = {
        name: brand(folder, oidc_provider.issuer, registration)
        for name, registration in AUTHENTICATED.items()
    }
    scopes = ["openid", "offline_access"]
    brands["hurried"] = brand(
        folder,
        oidc_provider.issuer,
        clients.BASIC,
        consumer={"scopes": scopes, "session_absolute": "1s", "session_idle": "1s"},
    )
    brands["brief"] = brand(folder, brief_provider.issuer, clients.BASIC)
    listen = ["127.0.0.1:0", "unix:vault.sock"]
    # The purge stays away, so that a session that is over is seen to be.
    config = make_vault(folder, brands, server={"listen": listen}, housekeeping={"interval": "1h"})
    if request.param == "postgres":
        move_to(request.getfixturevalue("postgres_server"), config)
    with SidecarProcess(config) as process:
        yield process
        assert complaints(process) == []


@pytest.fixture
async def bot(sidecar: SidecarProcess) -> AsyncIterator[AsyncTokenVaultClient]:
    async with connect(sidecar) as vault:
        yield vault


def _issued(provider: OidcProvider, token: Token) -> LogEntry:
    """The answer that brought the token."""
    name = sha256(token.access_token)
    (entry,) = [entry for entry in provider.token_requests() if entry.access_token == name]
    return entry


@EVERY_BRAND
async def test_consumer_flow(name: str, bot: AsyncTokenVaultClient, oidc_provider: OidcProvider) -> None:
    started = datetime.now(UTC)
    challenge = await bot.start_delegation(name, consumer="c-flow")
    asked = parse_qs(urlsplit(challenge.authorization_url).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["prompt"] == ["consent"]
    assert {"state", "nonce", "code_challenge"} <= asked.keys()
    assert challenge.expire_time > started

    delegated = await bot.complete_delegation(
        await Consumer().authorize(challenge.authorization_url, "alice")
    )
    assert (delegated.brand, delegated.consumer, delegated.conversation) == (name, "c-flow", None)
    assert delegated.subject == "alice"
    assert set(delegated.granted_scopes) == {"openid", "offline_access", "profile"}
    assert delegated.session_expire_time
    assert delegated.session_expire_time > started

    first = await bot.get_token(name, consumer="c-flow", include_id_token=True)
    assert first.expire_time == delegated.access_token_expire_time
    assert first.id_token
    assert await call_api(oidc_provider, first) == 200

    renewed = await bot.get_token(name, consumer="c-flow", rejected_token_version=first.token_version)
    assert renewed.access_token != first.access_token
    assert renewed.token_version != first.token_version
    assert await call_api(oidc_provider, renewed) == 200
    assert _issued(oidc_provider, renewed).presented == _issued(oidc_provider, first).refresh_token
    again = await bot.get_token(name, consumer="c-flow", rejected_token_version=first.token_version)
    assert again.access_token == renewed.access_token

    assert await bot.invalidate(name, consumer="c-flow") is Revocation.QUEUED
    with pytest.raises(GrantNotFound):
        await bot.get_token(name, consumer="c-flow")
    await eventually(lambda: _is_refused(oidc_provider, renewed))
    assert await bot.invalidate(name, consumer="c-flow") is Revocation.NOT_FOUND


@EVERY_BRAND
async def test_conversation_flow(name: str, bot: AsyncTokenVaultClient, oidc_provider: OidcProvider) -> None:
    delegated = await delegate(bot, name, conversation="chat-flow")
    assert (delegated.brand, delegated.consumer, delegated.conversation) == (name, None, "chat-flow")
    assert delegated.subject is None
    assert delegated.session_expire_time is None

    token = await bot.get_token(name, conversation="chat-flow")
    assert token.expire_time == delegated.access_token_expire_time
    assert token.id_token is None
    assert await call_api(oidc_provider, token) == 200

    for elsewhere in (Whose(conversation="chat-other"), Whose(consumer="chat-flow")):
        with pytest.raises(GrantNotFound):
            await bot.get_token(name, **elsewhere)
    with pytest.raises(InvalidRequest) as refused:
        await bot.get_token(name, conversation="chat-flow", include_id_token=True)
    assert [violation.field for violation in refused.value.field_violations] == ["include_id_token"]

    with pytest.raises(GrantExpired):
        await bot.get_token(name, conversation="chat-flow", rejected_token_version=token.token_version)
    family = _issued(oidc_provider, token).family
    assert oidc_provider.token_requests(grant_type="refresh_token", family=family) == []

    assert await bot.invalidate(name, conversation="chat-flow") is Revocation.QUEUED
    with pytest.raises(GrantNotFound):
        await bot.get_token(name, conversation="chat-flow")
    await eventually(lambda: _is_refused(oidc_provider, token))


async def test_expiry_renews_consumers_and_challenges_conversations(
    bot: AsyncTokenVaultClient, brief_provider: OidcProvider
) -> None:
    await asyncio.gather(
        delegate(bot, "brief", consumer="c-1"), delegate(bot, "brief", conversation="chat-1")
    )
    first = await bot.get_token("brief", consumer="c-1")

    async def challenged() -> bool:
        try:
            await bot.get_token("brief", conversation="chat-1")
        except GrantExpired:
            return True
        return False

    await eventually(challenged)
    await eventually(lambda: _is_refused(brief_provider, first))

    async def renewed() -> bool:
        # The server counts in whole seconds: to it the first was over up to one earlier than to us.
        token = await bot.get_token("brief", consumer="c-1")
        return token.access_token != first.access_token and await call_api(brief_provider, token) == 200

    await eventually(renewed)
    with pytest.raises(GrantNotFound):
        await bot.get_token("brief", conversation="chat-2")
    await bot.invalidate("brief", consumer="c-1")  # or it is renewed to the end of these tests


async def test_every_refresh_token_is_used_once(
    bot: AsyncTokenVaultClient, oidc_provider: OidcProvider
) -> None:
    await delegate(bot, "basic", consumer="c-rotates")
    token = await bot.get_token("basic", consumer="c-rotates")
    login = _issued(oidc_provider, token)
    for _ in range(3):
        # A crowd that was told 401 all at once.
        crowd = await asyncio.gather(
            *(
                bot.get_token("basic", consumer="c-rotates", rejected_token_version=token.token_version)
                for _ in range(10)
            )
        )
        assert len({member.token_version for member in crowd}) == 1
        token = crowd[0]
    refreshes = oidc_provider.token_requests(grant_type="refresh_token", family=login.family)
    assert [entry.status for entry in refreshes] == [200] * 3
    issued = [login.refresh_token, *(entry.refresh_token for entry in refreshes)]
    assert [entry.presented for entry in refreshes] == issued[:-1]
    assert len(set(issued)) == 4


@pytest.mark.parametrize("page", ["login", "consent"])
async def test_declined(page: str, bot: AsyncTokenVaultClient) -> None:
    for context in (Whose(consumer="c-declines"), Whose(conversation="chat-declines")):
        challenge = await bot.start_delegation("basic", **context)
        answer = await Consumer().authorize(
            challenge.authorization_url,
            decline="login" if page == "login" else "consent",
        )
        with pytest.raises(AuthorizationDenied):
            await bot.complete_delegation(answer)
        with pytest.raises(GrantNotFound):
            await bot.get_token("basic", **context)


async def test_another_account_cannot_take_a_consumers_place(
    bot: AsyncTokenVaultClient, oidc_provider: OidcProvider
) -> None:
    await delegate(bot, "basic", consumer="c-same", account="alice")
    before = await bot.get_token("basic", consumer="c-same")
    with pytest.raises(SubjectMismatch):
        await delegate(bot, "basic", consumer="c-same", account="mallory")
    assert (await bot.get_token("basic", consumer="c-same")).access_token == before.access_token
    assert await call_api(oidc_provider, before) == 200

    await delegate(bot, "basic", consumer="c-same", account="alice")
    after = await bot.get_token("basic", consumer="c-same")
    assert after.access_token != before.access_token
    await bot.invalidate("basic", consumer="c-same")
    assert (await delegate(bot, "basic", consumer="c-same", account="mallory")).subject == "mallory"


async def test_expected_subject(bot: AsyncTokenVaultClient) -> None:
    for account, refused in (("mallory", True), ("alice", False)):
        challenge = await bot.start_delegation("basic", consumer="c-expected", expected_subject="alice")
        answer = await Consumer().authorize(challenge.authorization_url, account)
        if refused:
            with pytest.raises(SubjectMismatch):
                await bot.complete_delegation(answer)
            with pytest.raises(GrantNotFound):
                await bot.get_token("basic", consumer="c-expected")
        else:
            await bot.complete_delegation(answer)


async def test_brand_service_reads_consumers_only(
    sidecar: SidecarProcess, bot: AsyncTokenVaultClient
) -> None:
    await delegate(bot, "basic", consumer="c-read")
    await delegate(bot, "basic", conversation="chat-read")
    async with connect(sidecar, SERVICE) as service:
        read = await service.get_token("basic", consumer="c-read")
        assert read.access_token == (await bot.get_token("basic", consumer="c-read")).access_token
        for denied in (
            service.get_token("basic", conversation="chat-read"),
            service.get_token("basic", conversation="never delegated"),
            service.get_token("basic", consumer="c-read", include_id_token=True),
            service.start_delegation("basic", consumer="c-read"),
            service.complete_delegation(state="s", code="c"),
            service.invalidate("basic", consumer="c-read"),
        ):
            with pytest.raises(PolicyDenied):
                await denied


async def test_strangers_are_refused(sidecar: SidecarProcess, tmp_path: Path) -> None:
    async with connect(sidecar, STRANGER) as stranger:
        with pytest.raises(UnknownCaller):
            await stranger.get_token("basic", consumer="c-1")
    forged = DevelopmentCA.create("another CA").issue(name=BOT, uris=["spiffe://tokenvault.test/bot"])
    files = caller_files(sidecar.folder, BOT) | {
        "certificate": tmp_path / "forged.pem",
        "private_key": tmp_path / "forged.key.pem",
    }
    files["certificate"].write_bytes(forged.certificate_pem)
    files["private_key"].write_bytes(forged.private_key_pem)
    async with AsyncTokenVaultClient(sidecar.address, **files) as forger:
        with pytest.raises(VaultUnreachable):
            await forger.get_token("basic", consumer="c-1")


async def test_only_the_bot_that_started_completes(
    sidecar: SidecarProcess, bot: AsyncTokenVaultClient
) -> None:
    challenge = await bot.start_delegation("basic", consumer="c-mine")
    answer = await Consumer().authorize(challenge.authorization_url)
    async with connect(sidecar, OTHER_BOT) as other:
        with pytest.raises(StateNotFound):
            await other.complete_delegation(answer)
    assert (await bot.complete_delegation(answer)).consumer == "c-mine"


async def test_invalidate_voids_pending_delegations(
    bot: AsyncTokenVaultClient, oidc_provider: OidcProvider
) -> None:
    challenge = await bot.start_delegation("basic", consumer="c-voided")
    answer = await Consumer().authorize(challenge.authorization_url)
    assert await bot.invalidate("basic", consumer="c-voided") is Revocation.NOT_FOUND
    with pytest.raises(StateNotFound):
        await bot.complete_delegation(answer)
    assert sha256(answer["code"]) not in {entry.presented for entry in oidc_provider.log()}


async def test_session_ends(bot: AsyncTokenVaultClient) -> None:
    delegated = await delegate(bot, "hurried", consumer="c-brief")
    assert delegated.access_token_expire_time
    assert delegated.session_expire_time
    assert delegated.session_expire_time < delegated.access_token_expire_time

    async def ended() -> bool:
        try:
            await bot.get_token("hurried", consumer="c-brief")
        except SessionEnded:
            return True
        return False

    await eventually(ended)


async def test_tcp_and_unix_socket_at_once(sidecar: SidecarProcess, bot: AsyncTokenVaultClient) -> None:
    _, unix = sidecar.addresses
    assert unix == f"unix:{sidecar.folder}/vault.sock"
    async with connect(sidecar, address=unix) as local:
        await delegate(local, "basic", conversation="chat-unix")
        here, there = await asyncio.gather(
            local.get_token("basic", conversation="chat-unix"),
            bot.get_token("basic", conversation="chat-unix"),
        )
        assert here.access_token == there.access_token
    async with connect(sidecar, STRANGER, address=unix) as stranger:
        with pytest.raises(UnknownCaller):
            await stranger.get_token("basic", conversation="chat-unix")


async def test_restart_keeps_everything(oidc_provider: OidcProvider, tmp_path: Path) -> None:
    folder = tmp_path / "vault"
    config = make_vault(
        folder,
        {
            "basic": brand(folder, oidc_provider.issuer, clients.BASIC),
            "hurried": brand(
                folder,
                oidc_provider.issuer,
                clients.BASIC,
                consumer={
                    "scopes": ["openid", "offline_access"],
                    "session_absolute": "500ms",
                    "session_idle": "500ms",
                },
            ),
        },
        housekeeping={"interval": "1s"},  # a restart may be done before that session is over
    )
    async with running(config) as sidecar, connect(sidecar) as bot:
        await delegate(bot, "basic", consumer="c-1")
        await delegate(bot, "basic", conversation="chat-1")
        await delegate(bot, "hurried", consumer="c-over")
        consumers = await bot.get_token("basic", consumer="c-1", include_id_token=True)
        conversations = await bot.get_token("basic", conversation="chat-1")
        pending = await bot.start_delegation("basic", consumer="c-2")

    async with running(config) as sidecar, connect(sidecar) as bot:
        assert await bot.get_token("basic", consumer="c-1", include_id_token=True) == consumers
        assert await bot.get_token("basic", conversation="chat-1") == conversations
        answer = await Consumer().authorize(pending.authorization_url, "bob")
        assert (await bot.complete_delegation(answer)).subject == "bob"
        renewed = await bot.get_token("basic", consumer="c-1", rejected_token_version=consumers.token_version)
        assert await call_api(oidc_provider, renewed) == 200
        await eventually(lambda: _is_purged(bot, "hurried", "c-over"))


async def _is_refused(provider: OidcProvider, token: Token) -> bool:
    return await call_api(provider, token) == 401


async def _is_purged(bot: AsyncTokenVaultClient, name: str, consumer: str) -> bool:
    """Deleted, and not merely over."""
    try:
        await bot.get_token(name, consumer=consumer)
    except TokenVaultError as error:
        return isinstance(error, GrantNotFound)
    return False
