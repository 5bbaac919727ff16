"""The RPCs over real TLS: what reaches the use-cases, and what comes back of them."""

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tests.api.running import Running, consumer, conversation, refusal
from tests.api.test_status import concrete
from tests.fakes.usecases import issued
from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault_sidecar.api.status import CODES, DOMAIN
from tokenvault_sidecar.core.challenges import DelegationRequest
from tokenvault_sidecar.core.delegations import AuthorizationResponse
from tokenvault_sidecar.core.errors import (
    AnswerLost,
    GrantNotFound,
    InvalidRequest,
    Reason,
    StoreUnavailable,
    VaultError,
)
from tokenvault_sidecar.core.model import Context, ContextKind, Secret
from tokenvault_sidecar.core.tokens import TokenRequest

ALICE = Context(ContextKind.CONSUMER, "alice")
CHAT = Context(ContextKind.CONVERSATION, "chat-1")


async def test_a_token_is_given_with_all_that_is_known_of_it(running: Running) -> None:
    running.tokens.kept["acme", ALICE] = issued(id_token=Secret("an id token"), degraded=True)
    request = pb.GetTokenRequest(
        brand_id="acme",
        context=consumer(),
        scopes=["orders"],
        min_ttl=Duration(seconds=30),
        rejected_token_version="v0",
        include_id_token=True,
    )
    assert await running.call(running.pki.bot, "GetToken", request) == pb.GetTokenResponse(
        access_token="an access token",
        token_type="Bearer",
        expire_time=Timestamp(seconds=2_000_000_100, nanos=500_000_000),
        scopes=["openid", "orders"],
        token_version="v1",
        id_token="an id token",
        degraded=True,
    )
    assert running.tokens.asked == [
        TokenRequest(
            brand="acme",
            context=ALICE,
            scopes=("orders",),
            min_ttl=30.0,
            rejected_version="v0",
            include_id_token=True,
            keeps_session_alive=True,
            releasable=None,
        )
    ]


async def test_the_callers_policy_goes_with_its_reads(running: Running) -> None:
    running.tokens.kept["acme", ALICE] = issued(expires_at=None)
    request = pb.GetTokenRequest(brand_id="acme", context=consumer())
    answer = await running.call(running.pki.orders, "GetToken", request)
    assert not answer.HasField("expire_time")
    (asked,) = running.tokens.asked
    assert not asked.keeps_session_alive
    assert asked.releasable == frozenset({"openid", "orders"})


async def test_a_delegation_from_start_to_completion(running: Running) -> None:
    start = pb.StartDelegationRequest(brand_id="acme", context=consumer(), scopes=["orders"])
    challenge = await running.call(running.pki.bot, "StartDelegation", start)
    assert challenge == pb.StartDelegationResponse(
        delegation_id="delegation-1",
        authorization_url="https://as.example/authorize?state=state-1",
        expire_time=Timestamp(seconds=2_000_000_000, nanos=250_000_000),
    )
    assert running.delegations.started == [DelegationRequest("acme", ALICE, "bot", ("orders",))]
    complete = pb.CompleteDelegationRequest(state="state-1", code="a code", iss="https://as.example")
    assert await running.call(
        running.pki.bot, "CompleteDelegation", complete
    ) == pb.CompleteDelegationResponse(
        brand_id="acme",
        context=consumer(),
        granted_scopes=["orders"],
        subject="somebody",
        access_token_expire_time=Timestamp(seconds=2_000_000_100, nanos=500_000_000),
        session_expire_time=Timestamp(seconds=2_000_000_200, nanos=750_000_000),
    )
    assert running.delegations.completed == [
        AuthorizationResponse(Secret("state-1"), Secret("a code"), "https://as.example", None)
    ]


async def test_a_conversations_delegation_has_no_subject_and_no_session(running: Running) -> None:
    start = pb.StartDelegationRequest(brand_id="acme", context=conversation())
    await running.call(running.pki.bot, "StartDelegation", start)
    complete = pb.CompleteDelegationRequest(state="state-1", code="a code")
    answer = await running.call(running.pki.bot, "CompleteDelegation", complete)
    assert answer.context == conversation()
    assert answer.subject == ""
    assert not answer.HasField("session_expire_time")


async def test_forgetting_is_idempotent(running: Running) -> None:
    running.tokens.kept["acme", CHAT] = issued()
    request = pb.InvalidateRequest(brand_id="acme", context=conversation())
    first = await running.call(running.pki.bot, "Invalidate", request)
    second = await running.call(running.pki.bot, "Invalidate", request)
    assert first.revocation == pb.REVOCATION_QUEUED
    assert second.revocation == pb.REVOCATION_NOT_FOUND


def raised() -> list[VaultError]:
    """One error of every class that says a reason."""
    return [
        InvalidRequest("brand_id", "brand 'acme' is not configured")
        if error is InvalidRequest
        else error("what happened")
        for error in concrete()
    ]


@pytest.mark.parametrize("error", raised(), ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("rpc", ["StartDelegation", "CompleteDelegation", "GetToken", "Invalidate"])
async def test_every_error_arrives_as_its_status(running: Running, error: VaultError, rpc: str) -> None:
    running.tokens.fails = running.delegations.fails = error
    request = getattr(pb, f"{rpc}Request")()
    if rpc == "CompleteDelegation":
        request.MergeFrom(pb.CompleteDelegationRequest(state="a state", code="a code"))
    else:
        request.brand_id = "acme"
        request.context.CopyFrom(consumer())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.call(running.pki.bot, rpc, request)
    told = refusal(caught.value)
    assert (told.code, told.message) == (CODES[error.reason], error.message)
    assert (told.domain, told.reason) == (DOMAIN, error.reason.value)
    assert told.retry_after == error.retry_after
    violations = ((error.field, error.problem),) if isinstance(error, InvalidRequest) else ()
    assert told.violations == violations


@pytest.mark.parametrize(
    "error", [StoreUnavailable("busy", retry_after=0.25), AnswerLost("slow", retry_after=2.0)]
)
async def test_when_to_retry_arrives(running: Running, error: VaultError) -> None:
    running.tokens.fails = error
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.call(
            running.pki.bot, "GetToken", pb.GetTokenRequest(brand_id="acme", context=consumer())
        )
    assert refusal(caught.value).retry_after == error.retry_after


async def test_a_missing_grant_says_so(running: Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.call(
            running.pki.bot, "GetToken", pb.GetTokenRequest(brand_id="acme", context=consumer())
        )
    assert refusal(caught.value).reason == GrantNotFound.reason


async def test_an_invalid_request_reaches_no_use_case(running: Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.call(
            running.pki.bot, "GetToken", pb.GetTokenRequest(brand_id="acme", context=consumer("a\n"))
        )
    told = refusal(caught.value)
    assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_REQUEST)
    assert told.violations == (("context.consumer.consumer_id", "holds a control character"),)
    assert running.tokens.asked == []
