"""What calls send, how answers are read, and how long they may take."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from urllib.parse import parse_qs, parse_qsl

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from tests.client.conftest import Connect, Files
from tests.client.fake_vault import HANG, FakeVault
from tokenvault import (
    AsyncTokenVaultClient,
    Challenge,
    DeadlineExceeded,
    Delegated,
    Revocation,
    Token,
)
from tokenvault.v1 import token_vault_pb2 as pb

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
NOON_STAMP = Timestamp(seconds=int(NOON.timestamp()))
ALICE = pb.Context(consumer=pb.ConsumerContext(consumer_id="alice"))
CHAT = pb.Context(conversation=pb.ConversationContext(conversation_id="c-42"))

LINK = "https://as.example/authorize?state=s3cret-state"
TOKEN = pb.GetTokenResponse(
    access_token="s3cret-access",
    token_type="Bearer",
    expire_time=NOON_STAMP,
    scopes=["orders", "profile"],
    token_version="v7",
    id_token="s3cret-id",
    degraded=True,
)


async def test_start_delegation(vault: AsyncTokenVaultClient, fake: FakeVault) -> None:
    fake.answers.append(
        pb.StartDelegationResponse(delegation_id="d-1", authorization_url=LINK, expire_time=NOON_STAMP)
    )
    challenge = await vault.start_delegation(
        "acme",
        consumer="alice",
        scopes=["orders"],
        redirect_uri="https://bot.example/cb",
        expected_subject="sub-1",
        authorization_parameters={"prompt": "login"},
    )
    assert challenge == Challenge("d-1", LINK, NOON)
    assert fake.requests == [
        pb.StartDelegationRequest(
            brand_id="acme",
            context=ALICE,
            scopes=["orders"],
            redirect_uri="https://bot.example/cb",
            expected_subject="sub-1",
            authorization_parameters={"prompt": "login"},
        )
    ]


async def test_complete_delegation_of_a_consumer(vault: AsyncTokenVaultClient, fake: FakeVault) -> None:
    fake.answers.append(
        pb.CompleteDelegationResponse(
            brand_id="acme",
            context=ALICE,
            granted_scopes=["orders"],
            subject="sub-1",
            access_token_expire_time=NOON_STAMP,
            session_expire_time=NOON_STAMP,
        )
    )
    delegated = await vault.complete_delegation(state="s", code="c", iss="https://as.example")
    assert delegated == Delegated("acme", "alice", None, ("orders",), "sub-1", NOON, NOON)
    assert fake.requests == [pb.CompleteDelegationRequest(state="s", code="c", iss="https://as.example")]


async def test_complete_delegation_by_the_query_of_the_redirect(
    vault: AsyncTokenVaultClient, fake: FakeVault
) -> None:
    fake.answers.append(pb.CompleteDelegationResponse(brand_id="acme", context=CHAT))
    query = "state=s&error=access_denied&error_description=No%20thanks&session_state=x"
    delegated = await vault.complete_delegation(dict(parse_qsl(query)))
    assert delegated == Delegated("acme", None, "c-42", (), None, None, None)
    assert fake.requests == [
        pb.CompleteDelegationRequest(state="s", error="access_denied", error_description="No thanks")
    ]


async def test_a_query_beside_keywords_is_refused(vault: AsyncTokenVaultClient, fake: FakeVault) -> None:
    with pytest.raises(TypeError, match="not both"):
        await vault.complete_delegation({"state": "s"}, code="c")
    assert fake.requests == []


async def test_parameters_given_more_than_once_are_refused_without_showing_them(
    vault: AsyncTokenVaultClient, fake: FakeVault
) -> None:
    query = parse_qs("state=s3cret&code=c")
    with pytest.raises(TypeError, match="state must be one str, not list") as raised:
        await vault.complete_delegation(query)  # type: ignore[arg-type]  # what the test is about
    assert "s3cret" not in str(raised.value)
    assert fake.requests == []


async def test_get_token(vault: AsyncTokenVaultClient, fake: FakeVault) -> None:
    fake.answers.append(TOKEN)
    token = await vault.get_token(
        "acme",
        consumer="alice",
        scopes="orders profile",
        min_ttl=90.5,
        rejected_token_version="v6",
        include_id_token=True,
    )
    assert token == Token(
        "s3cret-access", "Bearer", NOON, ("orders", "profile"), "v7", "s3cret-id", degraded=True
    )
    assert token.authorization_header == "Bearer s3cret-access"
    assert fake.requests == [
        pb.GetTokenRequest(
            brand_id="acme",
            context=ALICE,
            scopes=["orders", "profile"],
            min_ttl=Duration(seconds=90, nanos=500_000_000),
            rejected_token_version="v6",
            include_id_token=True,
        )
    ]


async def test_what_the_server_did_not_say_is_none(vault: AsyncTokenVaultClient, fake: FakeVault) -> None:
    fake.answers.append(pb.GetTokenResponse(access_token="s3cret", token_type="Bearer", token_version="v1"))
    token = await vault.get_token("acme", conversation="c-42")
    assert token == Token("s3cret", "Bearer", None, (), "v1", None, degraded=False)
    assert fake.requests == [pb.GetTokenRequest(brand_id="acme", context=CHAT)]


@pytest.mark.parametrize(
    ("wire", "revocation"),
    [
        *((number, name.removeprefix("REVOCATION_")) for name, number in pb.Revocation.items()),
        (4711, "UNSPECIFIED"),
    ],
)
async def test_invalidate(
    vault: AsyncTokenVaultClient, fake: FakeVault, wire: pb.Revocation.ValueType, revocation: str
) -> None:
    fake.answers.append(pb.InvalidateResponse(revocation=wire))
    assert await vault.invalidate("acme", consumer="alice") is Revocation[revocation]
    assert fake.requests == [pb.InvalidateRequest(brand_id="acme", context=ALICE)]


@pytest.mark.parametrize("context", [{}, {"consumer": "alice", "conversation": "c-42"}])
@pytest.mark.parametrize("method", ["start_delegation", "get_token", "invalidate"])
async def test_exactly_one_context(
    vault: AsyncTokenVaultClient, fake: FakeVault, method: str, context: dict[str, str]
) -> None:
    with pytest.raises(TypeError, match="exactly one of consumer= and conversation="):
        await getattr(vault, method)("acme", **context)
    assert fake.requests == []


CALLS: list[tuple[Message, float, Callable[[AsyncTokenVaultClient], Awaitable[object]]]] = [
    (pb.StartDelegationResponse(), 10, lambda vault: vault.start_delegation("acme", consumer="alice")),
    (pb.CompleteDelegationResponse(), 30, lambda vault: vault.complete_delegation(state="s", code="c")),
    (TOKEN, 10, lambda vault: vault.get_token("acme", consumer="alice")),
    (pb.InvalidateResponse(), 10, lambda vault: vault.invalidate("acme", consumer="alice")),
]


@pytest.mark.parametrize(("answer", "seconds", "call"), CALLS)
async def test_every_call_has_a_deadline(
    vault: AsyncTokenVaultClient,
    fake: FakeVault,
    answer: Message,
    seconds: float,
    call: Callable[[AsyncTokenVaultClient], Awaitable[object]],
) -> None:
    fake.answers.append(answer)
    await call(vault)
    assert seconds - 10 < fake.deadlines[0] <= seconds


async def test_the_client_s_timeout_and_the_call_s(
    connect: Connect, address: str, files: Files, fake: FakeVault
) -> None:
    vault = connect(address, **files.parameters(), timeout=100)
    fake.answers.extend([TOKEN, TOKEN])
    await vault.get_token("acme", consumer="alice")
    await vault.get_token("acme", consumer="alice", timeout=200)
    assert 50 < fake.deadlines[0] <= 101  # the wire rounds long ones up a little
    assert 150 < fake.deadlines[1] <= 201


async def test_no_answer_in_time(vault: AsyncTokenVaultClient, address: str, fake: FakeVault) -> None:
    fake.answers.append(HANG)
    with pytest.raises(DeadlineExceeded, match=rf"no answer from the sidecar at {address} within 0\.2 s"):
        await vault.get_token("acme", consumer="alice", timeout=0.2)
