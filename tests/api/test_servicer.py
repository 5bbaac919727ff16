"""The RPCs over real TLS: what reaches the use-cases, and what comes back of them."""

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_status import rpc_status

from tests.api.running import Pki, Running, consumer, conversation, refusal, serving
from tests.api.test_status import concrete
from tests.fakes.usecases import CODE, LINK_EXPIRES_AT, issued
from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault_sidecar.api.calls import CallUnderWay
from tokenvault_sidecar.api.status import CODES, DOMAIN
from tokenvault_sidecar.core.challenges import DelegationRequest
from tokenvault_sidecar.core.errors import (
    AnswerLost,
    ConfirmationCodeWrong,
    ConfirmationRequired,
    ConsentRequired,
    GrantNotFound,
    InvalidRequest,
    RateLimited,
    Reason,
    SessionEnded,
    StoreUnavailable,
    VaultError,
)
from tokenvault_sidecar.core.exchange import AuthorizationResponse
from tokenvault_sidecar.core.model import Confirmation, Context, ContextKind, Secret
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


async def test_who_was_not_told_of_a_completion_may_repeat_it(pki: Pki) -> None:
    """As where the audit log cannot have its line."""
    full = True

    def record(call: CallUnderWay, outcome: str) -> None:
        if full and call.rpc == "CompleteDelegation" and outcome == "OK":
            raise StoreUnavailable("the audit log cannot be written")

    async with serving(pki, record=record) as running:
        start = pb.StartDelegationRequest(brand_id="acme", context=consumer())
        await running.call(running.pki.bot, "StartDelegation", start)
        complete = pb.CompleteDelegationRequest(state="state-1", code="a code")
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await running.call(running.pki.bot, "CompleteDelegation", complete)
            assert refusal(caught.value).code is grpc.StatusCode.UNAVAILABLE
        full = False
        done = await running.call(running.pki.bot, "CompleteDelegation", complete)
        assert done.subject == "somebody"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.call(running.pki.bot, "CompleteDelegation", complete)
        assert refusal(caught.value).reason == Reason.STATE_NOT_FOUND


async def test_a_conversations_delegation_has_no_subject_and_no_session(running: Running) -> None:
    start = pb.StartDelegationRequest(brand_id="acme", context=conversation())
    await running.call(running.pki.bot, "StartDelegation", start)
    complete = pb.CompleteDelegationRequest(state="state-1", code="a code")
    answer = await running.call(running.pki.bot, "CompleteDelegation", complete)
    assert answer.context == conversation()
    assert answer.subject == ""
    assert not answer.HasField("session_expire_time")


async def test_a_code_is_confirmed(running: Running) -> None:
    start = pb.StartDelegationRequest(brand_id="acme", context=conversation())
    await running.call(running.pki.bot, "StartDelegation", start)
    wrong = pb.ConfirmDelegationRequest(delegation_id="delegation-1", confirmation_code="0000 0000")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.call(running.pki.bot, "ConfirmDelegation", wrong)
    told = refusal(caught.value)
    assert (told.reason, told.metadata) == ("CONFIRMATION_CODE_WRONG", {"tries_left": "3"})
    right = pb.ConfirmDelegationRequest(delegation_id="delegation-1", confirmation_code=" 0123-4567")
    answer = await running.call(running.pki.bot, "ConfirmDelegation", right)
    assert answer.delegated.brand_id == "acme"
    assert answer.delegated.context == conversation()
    assert not answer.delegated.HasField("confirmation")


async def test_the_code_goes_to_who_completes_it(running: Running) -> None:
    start = pb.StartDelegationRequest(brand_id="acme", context=conversation())
    await running.call(running.pki.bot, "StartDelegation", start)
    running.delegations.confirmation = Confirmation(CODE, LINK_EXPIRES_AT)
    complete = pb.CompleteDelegationRequest(state="state-1", code="a code")
    answer = await running.call(running.pki.bot, "CompleteDelegation", complete)
    assert answer.confirmation.code == CODE.reveal()
    assert answer.confirmation.expire_time.seconds == int(LINK_EXPIRES_AT)


async def test_a_token_that_waits_for_a_code_is_asked_for_by_it(running: Running) -> None:
    running.consent.fails = ConfirmationRequired(
        "ask for it", delegation_id="delegation-7", expires_at=LINK_EXPIRES_AT
    )
    wanted = pb.GetTokenRequest(brand_id="acme", context=consumer(), challenge=pb.ChallengeOptions())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.call(running.pki.bot, "GetToken", wanted)
    assert refusal(caught.value).reason == "CONFIRMATION_REQUIRED"
    status = rpc_status.from_call(caught.value)
    detail = pb.ConsentChallenge()
    assert any(packed.Unpack(detail) for packed in status.details)
    assert (detail.delegation_id, detail.authorization_url) == ("delegation-7", "")
    assert detail.expire_time.seconds == int(LINK_EXPIRES_AT)


async def test_forgetting_is_idempotent(running: Running) -> None:
    running.tokens.kept["acme", CHAT] = issued()
    request = pb.InvalidateRequest(brand_id="acme", context=conversation())
    first = await running.call(running.pki.bot, "Invalidate", request)
    second = await running.call(running.pki.bot, "Invalidate", request)
    assert first.revocation == pb.REVOCATION_QUEUED
    assert second.revocation == pb.REVOCATION_NOT_FOUND


def raised() -> list[VaultError]:
    """One error of every class that says a reason."""
    particular: list[VaultError] = [
        InvalidRequest("brand_id", "brand 'acme' is not configured"),
        ConfirmationRequired("ask for it", delegation_id="delegation-1", expires_at=LINK_EXPIRES_AT),
        ConfirmationCodeWrong("another one", tries_left=3),
    ]
    known = {type(error): error for error in particular}
    return [known.get(error) or error("what happened") for error in concrete()]


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


def asking(**options: object) -> pb.GetTokenRequest:
    challenge = pb.ChallengeOptions(**options)  # type: ignore[arg-type]  # tests name the fields
    return pb.GetTokenRequest(brand_id="acme", context=consumer(), challenge=challenge)


async def refused(running: Running, request: pb.GetTokenRequest) -> tuple[str | None, list[str]]:
    """The reason, and the links among the error's details."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.call(running.pki.bot, "GetToken", request)
    status = rpc_status.from_call(caught.value)
    assert status is not None
    links = []
    for packed in status.details:
        link = pb.ConsentChallenge()
        if packed.Unpack(link):
            assert link.delegation_id == "delegation-1"
            assert link.expire_time == Timestamp(seconds=2_000_000_000, nanos=250_000_000)
            links.append(link.authorization_url)
    return refusal(caught.value).reason, links


@pytest.mark.parametrize("error", [GrantNotFound, ConsentRequired, SessionEnded])
async def test_a_token_that_cannot_be_given_comes_with_a_link(
    running: Running, error: type[VaultError], capsys: pytest.CaptureFixture[str]
) -> None:
    running.tokens.fails = error("challenge the consumer")
    link = "https://as.example/authorize?state=state-1"
    request = asking(scopes=["orders"], redirect_uri="https://acme.example/callback")
    assert await refused(running, request) == (error.reason, [link])
    (started,) = running.delegations.started
    assert started == DelegationRequest(
        "acme", ALICE, "bot", ("orders",), redirect_uri="https://acme.example/callback"
    )
    shown = capsys.readouterr()
    assert "state-1" not in shown.out + shown.err


async def test_no_link_is_started_unasked_or_where_consent_would_not_help(running: Running) -> None:
    assert await refused(running, pb.GetTokenRequest(brand_id="acme", context=consumer())) == (
        Reason.GRANT_NOT_FOUND,
        [],
    )
    running.tokens.fails = StoreUnavailable("the store is away")
    assert await refused(running, asking()) == (Reason.STORE_UNAVAILABLE, [])
    running.tokens.fails = None
    running.tokens.kept["acme", ALICE] = issued()
    assert (await running.call(running.pki.bot, "GetToken", asking())).access_token
    assert running.delegations.started == []


async def test_where_there_can_be_no_link_that_is_told_instead(running: Running) -> None:
    running.delegations.fails = RateLimited("links enough", retry_after=5.0)
    assert await refused(running, asking()) == (Reason.RATE_LIMITED, [])
    for options in (
        {"scopes": ["two words"]},
        {"scopes": ["s" * 250] * 2 + ["t" * 250, "u" * 250, "v" * 250, "w" * 250]},
        {"redirect_uri": "x" * 2049},
    ):
        assert await refused(running, asking(**options)) == (Reason.INVALID_REQUEST, [])


async def test_who_may_not_start_a_delegation_gets_no_link_and_no_token(running: Running) -> None:
    """Decided before any look-up: the brand service may read this token."""
    running.tokens.kept["acme", ALICE] = issued()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.call(running.pki.orders, "GetToken", asking())
    assert refusal(caught.value).reason == Reason.POLICY_DENIED
    assert running.tokens.asked == []
