"""What an authorization server may answer wrongly: a typed error, nothing stored, nothing lost.

Every row is a brand of its own, so that one's circuit breaker and caches are
no other's.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from tests.authserver.scripted import FAULTS, Answer, Fault, Reply, ScriptedServer
from tests.e2e.scripted import LIFE, consent, delegate, issuing, scripted_brand, token_path
from tests.e2e.vaults import Whose, connect, make_vault, running
from tests.running import SidecarProcess
from tokenvault import (
    AsyncTokenVaultClient,
    AuthorizationServerMisconfigured,
    AuthorizationServerUnavailable,
    CodeRejected,
    GrantExpired,
    GrantNotFound,
    InvalidIdToken,
    StateNotFound,
    Token,
    TokenVaultError,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEPT, NEW, NEW_CHAT = Whose(consumer="kept"), Whose(consumer="new"), Whose(conversation="new")

Kind = type[TokenVaultError]
AWAY, OURS = AuthorizationServerUnavailable, AuthorizationServerMisconfigured


@dataclass(frozen=True)
class Wrong:
    """A token endpoint's wrong answer, and what completing and renewing raise.

    `retry`: the server surely did not act, so the same response may be sent again.
    """

    answer: Reply | dict[str, object]
    """A reply, or fields instead of a sound answer's."""
    completing: Kind
    renewing: Kind
    retry: bool = False


HTML: dict[str, Any] = {
    "body": b"<html>Sign in to the Wi-Fi</html>",
    "headers": {"Content-Type": "text/html"},
}
SOUND: dict[str, object] = {"access_token": "never-stored", "token_type": "Bearer", "expires_in": LIFE}

TOKEN_ANSWERS = {
    "html": Wrong(Reply(**HTML), AWAY, AWAY),
    "cut-off": Wrong(Reply(json=SOUND, truncate=True), AWAY, AWAY),
    "half-json": Wrong(Reply(body=b'{"access_token": "never-sto'), AWAY, AWAY),
    "no-object": Wrong(Reply(json=["never-stored"]), AWAY, AWAY),
    "empty": Wrong(Reply(), AWAY, AWAY),
    "hang-up": Wrong(Reply(close="after"), AWAY, AWAY),
    "slow": Wrong(Reply(json=SOUND, delay=3600.0), AWAY, AWAY),
    "no-access-token": Wrong({"access_token": None}, CodeRejected, AWAY),
    "empty-access-token": Wrong({"access_token": ""}, CodeRejected, AWAY),
    "number-as-access-token": Wrong({"access_token": 42}, CodeRejected, AWAY),
    "line-end-in-access-token": Wrong({"access_token": "at\r\nX-Admin: 1"}, CodeRejected, AWAY),
    "invalid-grant": Wrong(Reply(status=400, json={"error": "invalid_grant"}), CodeRejected, GrantExpired),
    "invalid-client": Wrong(Reply(status=401, json={"error": "invalid_client"}), OURS, OURS),
    "refused-with-200": Wrong(Reply(json={"error": "invalid_client"}), OURS, OURS),
    "redirecting": Wrong(Reply(status=307, headers={"Location": "/elsewhere"}), OURS, OURS),
    "gone": Wrong(Reply(status=404, body=b"not found"), OURS, OURS),
    "failing": Wrong(Reply(status=500, **HTML), AWAY, AWAY, retry=True),
    "busy": Wrong(Reply(status=503, headers={"Retry-After": "7"}), AWAY, AWAY, retry=True),
}

UNUSABLE_FIELDS: dict[str, dict[str, object]] = {
    "expires-in-0": {"expires_in": 0},
    "expires-in-negative": {"expires_in": -60},
    "expires-in-negative-string": {"expires_in": "-60"},
    "expires-in-word": {"expires_in": "soon"},
    "no-token-type": {"token_type": None},
    "other-token-type": {"token_type": "mac"},
    "scope-no-string": {"scope": 5},
}
"""Refused in a code exchange only: a renewal keeps what it can, as its refresh token may be used up."""

USABLE_FIELDS: dict[str, tuple[dict[str, object], float | None]] = {
    "expires-in-string": ({"expires_in": "60"}, 60.0),
    "expires-in-fraction": ({"expires_in": 60.5}, 60.5),
    "expires-in-absent": ({"expires_in": None}, None),
    "token-type-lower-case": ({"token_type": "bearer"}, LIFE),
}
"""Accepted, and the life the access token then has."""

METADATA: dict[str, tuple[Callable[[ScriptedServer], Reply], Kind]] = {
    "meta-of-another-issuer": (lambda server: Reply(json=server.metadata), OURS),
    "meta-http": (lambda server: _metadata(server, token_endpoint="http://login.example/token"), OURS),
    "meta-without-endpoints": (lambda server: _metadata(server, token_endpoint=None), OURS),
    "meta-html": (lambda _: Reply(**HTML), OURS),
    "meta-half-json": (lambda _: Reply(body=b'{"issuer": "http'), OURS),
    "meta-cut-off": (lambda server: Reply(json=server.metadata, truncate=True), AWAY),
    "meta-redirecting": (lambda _: Reply(status=302, headers={"Location": "/elsewhere"}), OURS),
    "meta-nowhere": (lambda _: Reply(status=404), OURS),
    "meta-failing": (lambda _: Reply(status=503), AWAY),
    "meta-slow": (lambda _: Reply(delay=3600.0), AWAY),
}


def _metadata(server: ScriptedServer, **members: object) -> Reply:
    return Reply(json=server.metadata | {"issuer": f"{server.url}/meta-http"} | members)


@pytest.fixture(scope="module")
def nobody() -> Iterator[str]:
    """A URL where nobody listens: the port is taken, so that nobody ever will."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sidecar(
    server: ScriptedServer, nobody: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[SidecarProcess]:
    rows = (*TOKEN_ANSWERS, *UNUSABLE_FIELDS, *USABLE_FIELDS, *FAULTS, "no-id-token", "no-jwt")
    brands = {name: scripted_brand(server, name) for name in rows}
    undiscovered = {"authorization_endpoint": None, "token_endpoint": None, "jwks_uri": None}
    for name in METADATA:
        brands[name] = scripted_brand(server, name, issuer=f"{server.url}/{name}", **undiscovered)
    brands["down"] = scripted_brand(server, "down", token_endpoint=f"{nobody}/token")
    brands["meta-down"] = scripted_brand(server, "meta-down", issuer=nobody, **undiscovered)
    brands["keys-down"] = scripted_brand(server, "keys-down", jwks_uri=f"{nobody}/jwks")
    config = make_vault(
        tmp_path_factory.mktemp("vault"), brands, renewal={"redemption_deadline": "2s", "lease": "5s"}
    )
    async with running(config) as process:
        yield process


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bot(sidecar: SidecarProcess) -> AsyncIterator[AsyncTokenVaultClient]:
    async with connect(sidecar) as vault:
        yield vault


def _script(server: ScriptedServer, name: str, answer: Reply | dict[str, object]) -> None:
    reply: Reply | Answer = answer if isinstance(answer, Reply) else issuing(server, answer)
    server.on(token_path(name), reply)


async def _kept(bot: AsyncTokenVaultClient, server: ScriptedServer, name: str) -> Token:
    """A sound grant, there before anything goes wrong."""
    _script(server, name, {})
    await delegate(bot, server, name, KEPT)
    return await bot.get_token(name, **KEPT, include_id_token=True)


async def _completing_fails(
    bot: AsyncTokenVaultClient, server: ScriptedServer, name: str, whose: Whose, kind: Kind
) -> dict[str, str]:
    """Raises unless completing raises just this; the authorization response, for another try."""
    response = consent(server, await bot.start_delegation(name, **whose))
    with pytest.raises(TokenVaultError) as failure:
        await bot.complete_delegation(response)
    assert type(failure.value) is kind
    return response


async def _nothing_stored(bot: AsyncTokenVaultClient, name: str, *contexts: Whose) -> None:
    for whose in contexts:
        with pytest.raises(GrantNotFound):
            await bot.get_token(name, **whose)


@pytest.mark.parametrize("name", TOKEN_ANSWERS)
async def test_token_endpoint_answers_wrongly(
    name: str, bot: AsyncTokenVaultClient, server: ScriptedServer
) -> None:
    row = TOKEN_ANSWERS[name]
    kept = await _kept(bot, server, name)
    _script(server, name, row.answer)
    contexts = (KEPT, NEW, NEW_CHAT)
    responses = await asyncio.gather(
        *(_completing_fails(bot, server, name, whose, row.completing) for whose in contexts)
    )
    await _nothing_stored(bot, name, NEW, NEW_CHAT)
    assert await bot.get_token(name, **KEPT, include_id_token=True) == kept

    with pytest.raises(TokenVaultError) as failure:
        await bot.get_token(name, **KEPT, rejected_token_version=kept.token_version)
    assert type(failure.value) is row.renewing
    assert (failure.value.retry_after is not None) is (row.renewing is AWAY)
    if row.renewing is GrantExpired:  # rejected by the API, refused by the server: over for everybody
        with pytest.raises(GrantExpired):
            await bot.get_token(name, **KEPT)
    else:
        assert await bot.get_token(name, **KEPT, include_id_token=True) == kept

    _script(server, name, {})
    for response in responses:
        if row.retry:
            await bot.complete_delegation(response)
        else:
            with pytest.raises(StateNotFound):
                await bot.complete_delegation(response)
    assert server.requests("/elsewhere") == []


@pytest.mark.parametrize("name", UNUSABLE_FIELDS)
async def test_token_answer_with_an_unusable_field(
    name: str, bot: AsyncTokenVaultClient, server: ScriptedServer
) -> None:
    kept = await _kept(bot, server, name)
    _script(server, name, UNUSABLE_FIELDS[name])
    for whose in (KEPT, NEW, NEW_CHAT):
        await _completing_fails(bot, server, name, whose, CodeRejected)
    await _nothing_stored(bot, name, NEW, NEW_CHAT)
    assert await bot.get_token(name, **KEPT, include_id_token=True) == kept


@pytest.mark.parametrize("name", USABLE_FIELDS)
async def test_token_answer_that_is_odd_but_usable(
    name: str, bot: AsyncTokenVaultClient, server: ScriptedServer
) -> None:
    fields, life = USABLE_FIELDS[name]
    _script(server, name, fields)
    for whose in (NEW, NEW_CHAT):
        before = datetime.now(UTC)
        await delegate(bot, server, name, whose)
        after = datetime.now(UTC)
        token = await bot.get_token(name, **whose)
        assert token.token_type == "Bearer"
        if life is None:
            assert token.expire_time is None
        else:
            assert token.expire_time
            span, skew = timedelta(seconds=life), timedelta(milliseconds=100)
            assert before + span - skew <= token.expire_time <= after + span + skew


@pytest.mark.parametrize("name", FAULTS)
async def test_id_token_is_wrong(name: Fault, bot: AsyncTokenVaultClient, server: ScriptedServer) -> None:
    kept = await _kept(bot, server, name)
    server.on(token_path(name), issuing(server, wrong=name))
    await _id_token_is_refused(bot, server, name, kept)


@pytest.mark.parametrize(("name", "id_token"), [("no-id-token", None), ("no-jwt", "no.j.wt")])
async def test_id_token_is_none(
    name: str, id_token: str | None, bot: AsyncTokenVaultClient, server: ScriptedServer
) -> None:
    kept = await _kept(bot, server, name)
    _script(server, name, {"id_token": id_token})
    await _id_token_is_refused(bot, server, name, kept)


async def _id_token_is_refused(
    bot: AsyncTokenVaultClient, server: ScriptedServer, name: str, kept: Token
) -> None:
    server.on(f"/{name}/revoke", Reply())
    for whose in (KEPT, NEW):
        await _completing_fails(bot, server, name, whose, InvalidIdToken)
    await _nothing_stored(bot, name, NEW)
    assert await bot.get_token(name, **KEPT, include_id_token=True) == kept
    # What was issued with it is nobody's: both tokens of both logins are revoked, and those of no other.
    await server.arrived(f"/{name}/revoke", 4)
    revoked = {seen.form["token"] for seen in server.requests(f"/{name}/revoke")}
    assert kept.access_token not in revoked

    await delegate(bot, server, name, NEW_CHAT)  # looks at no id token
    assert (await bot.get_token(name, **NEW_CHAT)).id_token is None


async def test_token_endpoint_is_down(bot: AsyncTokenVaultClient, server: ScriptedServer) -> None:
    for whose in (NEW, NEW_CHAT):
        response = await _completing_fails(bot, server, "down", whose, AWAY)
        # The code was not used, so that the state is not either.
        with pytest.raises(AuthorizationServerUnavailable):
            await bot.complete_delegation(response)
    await _nothing_stored(bot, "down", NEW, NEW_CHAT)


async def test_keys_cannot_be_had(bot: AsyncTokenVaultClient, server: ScriptedServer) -> None:
    _script(server, "keys-down", {})
    response = await _completing_fails(bot, server, "keys-down", NEW, AWAY)
    # The code stays unused until it can be judged what it brings.
    assert server.requests(token_path("keys-down")) == []
    with pytest.raises(AuthorizationServerUnavailable):
        await bot.complete_delegation(response)
    await _nothing_stored(bot, "keys-down", NEW)
    await delegate(bot, server, "keys-down", NEW_CHAT)  # needs no keys


@pytest.mark.parametrize("name", [*METADATA, "meta-down"])
async def test_metadata_is_wrong(name: str, bot: AsyncTokenVaultClient, server: ScriptedServer) -> None:
    kind: Kind = AWAY
    if name in METADATA:
        reply, kind = METADATA[name]
        server.on(f"/{name}/.well-known/openid-configuration", reply(server))
    for whose in (NEW, NEW_CHAT):
        with pytest.raises(TokenVaultError) as failure:
            await bot.start_delegation(name, **whose)
        assert type(failure.value) is kind
    await _nothing_stored(bot, name, NEW, NEW_CHAT)
    assert server.requests("/elsewhere") == []
