"""What a caller may ask wrongly: a typed error, nothing stored, nothing lost, and nobody else asked."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
import pytest_asyncio

from tests.authserver.scripted import ScriptedServer
from tests.e2e.scripted import consent, delegate, issuing, scripted_brand, token_path
from tests.e2e.vaults import (
    BOT,
    OTHER_BOT,
    PATIENCE,
    SERVICE,
    Whose,
    connect,
    eventually,
    make_vault,
    running,
)
from tests.running import SidecarProcess, caller_files
from tokenvault import (
    AsyncTokenVaultClient,
    AuthorizationDenied,
    GrantNotFound,
    InvalidRequest,
    IssuerMismatch,
    PolicyDenied,
    ScopeNotGranted,
    StateNotFound,
    SubjectMismatch,
    TokenVaultError,
)
from tokenvault._status import error_from
from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault.v1.token_vault_pb2_grpc import TokenVaultStub

pytestmark = pytest.mark.asyncio(loop_scope="module")

Vault = AsyncTokenVaultClient

KEPT = Whose(consumer="kept")
CONSUMER_ID, CONVERSATION_ID = "context.consumer.consumer_id", "context.conversation.conversation_id"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sidecar(
    server: ScriptedServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[SidecarProcess]:
    brands = {
        "acme": scripted_brand(server, "acme", allowed_authorization_parameters=["ui_locales"]),
        "hasty": scripted_brand(server, "hasty", delegation_lifetime="1ms"),
        "chats": scripted_brand(server, "chats", consumer=None),
        "logins": scripted_brand(server, "logins", conversation=None),
    }
    for name in brands:
        server.on(token_path(name), issuing(server))
    async with running(make_vault(tmp_path_factory.mktemp("vault"), brands)) as process:
        yield process


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bot(sidecar: SidecarProcess) -> AsyncIterator[Vault]:
    async with connect(sidecar) as vault:
        yield vault


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def nothing_lost(bot: Vault, server: ScriptedServer) -> AsyncIterator[None]:
    """Whatever a test asks for, a grant that was there stays as it was."""
    await delegate(bot, server, "acme", KEPT)
    before = await bot.get_token("acme", **KEPT, include_id_token=True)
    yield
    assert await bot.get_token("acme", **KEPT, include_id_token=True) == before


def _on_every_rpc_with_a_context(
    name: str, brand: str, whose: Whose, field: str
) -> dict[str, tuple[Callable[[Vault], Awaitable[object]], str]]:
    return {
        f"{name}: StartDelegation": (lambda vault: vault.start_delegation(brand, **whose), field),
        f"{name}: GetToken": (lambda vault: vault.get_token(brand, **whose), field),
        f"{name}: Invalidate": (lambda vault: vault.invalidate(brand, **whose), field),
    }


REQUESTS: dict[str, tuple[Callable[[Vault], Awaitable[object]], str]] = {
    **_on_every_rpc_with_a_context("no brand", "", KEPT, "brand_id"),
    **_on_every_rpc_with_a_context("unknown brand", "nobody", KEPT, "brand_id"),
    **_on_every_rpc_with_a_context("over-long brand", "b" * 65, KEPT, "brand_id"),
    **_on_every_rpc_with_a_context("brand with a control character", "ac\nme", KEPT, "brand_id"),
    **_on_every_rpc_with_a_context("no consumer id", "acme", Whose(consumer=""), CONSUMER_ID),
    **_on_every_rpc_with_a_context("over-long consumer id", "acme", Whose(consumer="c" * 257), CONSUMER_ID),
    **_on_every_rpc_with_a_context("long in bytes", "acme", Whose(consumer="é" * 129), CONSUMER_ID),
    **_on_every_rpc_with_a_context("control character", "acme", Whose(consumer="a\x00b"), CONSUMER_ID),
    **_on_every_rpc_with_a_context("no conversation id", "acme", Whose(conversation=""), CONVERSATION_ID),
    **_on_every_rpc_with_a_context(
        "over-long conversation id", "acme", Whose(conversation="c" * 257), CONVERSATION_ID
    ),
    **_on_every_rpc_with_a_context("line separator", "acme", Whose(conversation="a\u2028b"), CONVERSATION_ID),
    "consumers switched off": (lambda v: v.start_delegation("chats", consumer="c"), "context"),
    "conversations switched off": (lambda v: v.start_delegation("logins", conversation="c"), "context"),
    "unknown scope": (lambda v: v.start_delegation("acme", consumer="c", scopes="openid admin"), "scopes"),
    "another kind's scope": (lambda v: v.start_delegation("acme", consumer="c", scopes="orders"), "scopes"),
    "scope of two words": (lambda v: v.start_delegation("acme", consumer="c", scopes=["a b"]), "scopes[0]"),
    "over-long scope": (lambda v: v.get_token("acme", **KEPT, scopes=["openid", "s" * 257]), "scopes[1]"),
    "too many scopes": (lambda v: v.get_token("acme", **KEPT, scopes=[f"s{n}" for n in range(65)]), "scopes"),
    "foreign redirect URI": (
        lambda v: v.start_delegation("acme", consumer="c", redirect_uri="https://evil.example/callback"),
        "redirect_uri",
    ),
    "redirect URI with something added": (
        lambda v: v.start_delegation(
            "acme", consumer="c", redirect_uri="https://brand.example/callback/../evil"
        ),
        "redirect_uri",
    ),
    "over-long redirect URI": (
        lambda v: v.start_delegation("acme", consumer="c", redirect_uri="https://" + "b" * 2048),
        "redirect_uri",
    ),
    "parameter not allowed": (
        lambda v: v.start_delegation("acme", consumer="c", authorization_parameters={"prompt": "none"}),
        "authorization_parameters",
    ),
    "parameter of the protocol": (
        lambda v: v.start_delegation("acme", consumer="c", authorization_parameters={"state": "mine"}),
        "authorization_parameters",
    ),
    "control character in a parameter": (
        lambda v: v.start_delegation("acme", consumer="c", authorization_parameters={"ui_locales": "de\n"}),
        "authorization_parameters.ui_locales",
    ),
    "subject of a conversation": (
        lambda v: v.start_delegation("acme", conversation="c", expected_subject="alice"),
        "expected_subject",
    ),
    "subject without login": (
        lambda v: v.start_delegation("acme", consumer="c", scopes="offline_access", expected_subject="alice"),
        "expected_subject",
    ),
    "no state": (lambda v: v.complete_delegation(code="c"), "state"),
    "over-long state": (lambda v: v.complete_delegation(state="s" * 513, code="c"), "state"),
    "control character in the state": (lambda v: v.complete_delegation(state="s\r", code="c"), "state"),
    "neither code nor error": (lambda v: v.complete_delegation(state="s"), "code"),
    "code and error": (
        lambda v: v.complete_delegation(state="s", code="c", error="access_denied"),
        "code",
    ),
    "over-long code": (lambda v: v.complete_delegation(state="s", code="c" * 4097), "code"),
    "error with a quote": (lambda v: v.complete_delegation(state="s", error='"'), "error"),
    "negative min_ttl": (lambda v: v.get_token("acme", **KEPT, min_ttl=-1), "min_ttl"),
    "endless min_ttl": (lambda v: v.get_token("acme", **KEPT, min_ttl=3601), "min_ttl"),
    "no token version": (
        lambda v: v.get_token("acme", **KEPT, rejected_token_version="v\n1"),
        "rejected_token_version",
    ),
    "id token of a conversation": (
        lambda v: v.get_token("acme", conversation="c", include_id_token=True),
        "include_id_token",
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_invalid_request(name: str, bot: Vault, server: ScriptedServer) -> None:
    call, field = REQUESTS[name]
    asked = len(server.seen)
    with pytest.raises(InvalidRequest) as refused:
        await call(bot)
    assert [violation.field for violation in refused.value.field_violations] == [field]
    assert len(server.seen) == asked
    for brand, whose in (
        ("acme", Whose(consumer="c")),
        ("acme", Whose(conversation="c")),
        ("logins", Whose(consumer="c")),
        ("chats", Whose(conversation="c")),
    ):
        await _nothing_stored(bot, brand, whose)


@pytest.mark.parametrize("rpc", ["StartDelegation", "GetToken", "Invalidate"])
async def test_no_context(rpc: str, sidecar: SidecarProcess) -> None:
    """The client does not even send it."""
    request = getattr(pb, f"{rpc}Request")(brand_id="acme")
    with pytest.raises(InvalidRequest) as refused:
        await _raw(sidecar, rpc, request)
    assert [violation.field for violation in refused.value.field_violations] == ["context"]
    context = pb.Context(consumer=pb.ConsumerContext())
    with pytest.raises(InvalidRequest) as refused:
        await _raw(sidecar, rpc, getattr(pb, f"{rpc}Request")(brand_id="acme", context=context))
    assert [violation.field for violation in refused.value.field_violations] == [CONSUMER_ID]


async def test_both_contexts(bot: Vault) -> None:
    """In the contract a oneof: there is no such message, and the client says so."""
    for call in (bot.start_delegation, bot.get_token, bot.invalidate):
        with pytest.raises(TypeError, match="exactly one"):
            await call("acme", consumer="c", conversation="c")


async def test_brand_of_somebody_else_is_not_told_from_none(sidecar: SidecarProcess) -> None:
    async with connect(sidecar, SERVICE) as service:
        for brand in ("acme", "nobody"):
            with pytest.raises(PolicyDenied):
                await service.get_token(brand, conversation="c")


async def test_more_scopes_than_granted(bot: Vault) -> None:
    with pytest.raises(ScopeNotGranted):
        await bot.get_token("acme", **KEPT, scopes="openid orders")


@pytest.mark.parametrize("kind", ["consumer", "conversation"])
async def test_replayed_state(kind: str, bot: Vault, server: ScriptedServer) -> None:
    whose = Whose(consumer="replayed") if kind == "consumer" else Whose(conversation="replayed")
    response = consent(server, await bot.start_delegation("acme", **whose))
    await bot.complete_delegation(response)
    token = await bot.get_token("acme", **whose)
    await _refused_without_a_request(bot, server, response)
    await _refused_without_a_request(bot, server, response | {"code": "another.code."})
    assert await bot.get_token("acme", **whose) == token


async def test_expired_state(bot: Vault, server: ScriptedServer) -> None:
    response = consent(server, await bot.start_delegation("hasty", consumer="late"))
    await _refused_without_a_request(bot, server, response)
    await _nothing_stored(bot, "hasty", Whose(consumer="late"))


async def test_unknown_state(bot: Vault, server: ScriptedServer) -> None:
    challenge = await bot.start_delegation("acme", consumer="unknown")
    response = consent(server, challenge)
    await _refused_without_a_request(bot, server, response | {"state": "never-given-out"})
    await _refused_without_a_request(bot, server, response | {"state": challenge.delegation_id})
    assert (await bot.complete_delegation(response)).consumer == "unknown"


async def test_foreign_state(sidecar: SidecarProcess, bot: Vault, server: ScriptedServer) -> None:
    response = consent(server, await bot.start_delegation("acme", consumer="foreign"))
    async with connect(sidecar, OTHER_BOT) as other:
        await _refused_without_a_request(other, server, response)
        await _nothing_stored(other, "acme", Whose(consumer="foreign"))
    assert (await bot.complete_delegation(response)).consumer == "foreign"


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        pytest.param({"iss": "https://evil.example"}, IssuerMismatch, id="iss of another"),
        pytest.param({"iss": None}, IssuerMismatch, id="iss missing"),
        pytest.param({"code": None, "error": "access_denied"}, AuthorizationDenied, id="denied"),
        pytest.param({"code": None, "error": "made up"}, AuthorizationDenied, id="unregistered error"),
        pytest.param(
            {"code": None, "error": "access_denied", "iss": "https://evil.example"},
            IssuerMismatch,
            id="denied by another",
        ),
    ],
)
async def test_authorization_response_is_refused(
    changes: dict[str, str | None], kind: type[TokenVaultError], bot: Vault, server: ScriptedServer
) -> None:
    for whose in (KEPT, Whose(consumer="refused"), Whose(conversation="refused")):
        response = consent(server, await bot.start_delegation("acme", **whose))
        changed = {k: v for k, v in (response | changes).items() if v is not None}
        asked = len(server.requests(token_path("acme")))
        with pytest.raises(TokenVaultError) as refused:
            await bot.complete_delegation(changed)
        assert type(refused.value) is kind
        assert len(server.requests(token_path("acme"))) == asked
        await _refused_without_a_request(bot, server, response)
        if whose is not KEPT:
            await _nothing_stored(bot, "acme", whose)


async def test_another_subject(bot: Vault, server: ScriptedServer) -> None:
    """Somebody else's tokens are not kept: they are revoked."""
    before = await bot.get_token("acme", **KEPT)
    with pytest.raises(SubjectMismatch):
        await delegate(bot, server, "acme", KEPT, account="mallory")
    assert await bot.get_token("acme", **KEPT) == before

    async def revoked() -> bool:
        tokens = [seen.form["token"] for seen in server.requests("/acme/revoke")]
        return any(token.startswith("mallory.rt-") for token in tokens)

    await eventually(revoked)


async def _nothing_stored(bot: Vault, brand: str, whose: Whose) -> None:
    with pytest.raises(GrantNotFound):
        await bot.get_token(brand, **whose)


async def _refused_without_a_request(bot: Vault, server: ScriptedServer, response: dict[str, str]) -> None:
    asked = len(server.seen)
    with pytest.raises(StateNotFound):
        await bot.complete_delegation(response)
    assert len(server.seen) == asked


async def _raw(sidecar: SidecarProcess, rpc: str, request: Any) -> None:
    """A call that the client would not make; raises what it would."""
    files = caller_files(sidecar.folder, BOT)
    credentials = grpc.ssl_channel_credentials(
        files["ca"].read_bytes(), files["private_key"].read_bytes(), files["certificate"].read_bytes()
    )
    async with grpc.aio.secure_channel(sidecar.address, credentials) as channel:
        try:
            await getattr(TokenVaultStub(channel), rpc)(request, timeout=PATIENCE)
        except grpc.aio.AioRpcError as error:
            raise error_from(error, address=sidecar.address, timeout=PATIENCE) from None
