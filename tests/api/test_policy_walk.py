"""Caller × RPC × context kind: who may do what, for every RPC the service has."""

from typing import Any, Final

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from tests.api.running import DEADLINE, Running, consumer, conversation, refusal
from tests.fakes.usecases import CODE, issued
from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault_sidecar.core.challenges import DelegationRequest
from tokenvault_sidecar.core.model import Context, ContextKind
from tokenvault_sidecar.core.policy import Rpc

REFLECT: Final = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
ALLOWED: Final = "allowed"
DENIED: Final = "POLICY_DENIED"
UNKNOWN: Final = "UNKNOWN_CALLER"

NOBODY: Final = (UNKNOWN, UNKNOWN)
BOTH: Final = (ALLOWED, ALLOWED)
NEITHER: Final = (DENIED, DENIED)
CONSUMERS: Final = (ALLOWED, DENIED)
CONVERSATIONS: Final = (DENIED, ALLOWED)

# For a consumer and for a conversation. "orders" is a brand service, "kiosk" may do all but with consumers.
EXPECTED: Final = {
    "StartDelegation": {"bot": BOTH, "orders": NEITHER, "kiosk": CONVERSATIONS, "stranger": NOBODY},
    "CompleteDelegation": {"bot": BOTH, "orders": NEITHER, "kiosk": CONVERSATIONS, "stranger": NOBODY},
    "ConfirmDelegation": {"bot": BOTH, "orders": NEITHER, "kiosk": CONVERSATIONS, "stranger": NOBODY},
    "WatchDelegation": {"bot": BOTH, "orders": NEITHER, "kiosk": CONVERSATIONS, "stranger": NOBODY},
    "GetToken": {"bot": BOTH, "orders": CONSUMERS, "kiosk": CONVERSATIONS, "stranger": NOBODY},
    "Invalidate": {"bot": BOTH, "orders": NEITHER, "kiosk": CONVERSATIONS, "stranger": NOBODY},
}
CALLERS: Final = ("bot", "orders", "kiosk", "stranger")
CONTEXTS: Final = (
    (Context(ContextKind.CONSUMER, "alice"), consumer()),
    (Context(ContextKind.CONVERSATION, "chat-1"), conversation()),
)
SERVICE: Final = pb.DESCRIPTOR.services_by_name["TokenVault"]
WALK: Final = [
    pytest.param(method.name, kind, caller, id=f"{caller}-{method.name}-{CONTEXTS[kind][0].kind}")
    for method in SERVICE.methods
    for kind in range(len(CONTEXTS))
    for caller in CALLERS
]


BESIDE: Final = {
    # "bot" and "kiosk" are allowed all, "orders" reads tokens alone
    "grpc.health.v1.Health": {"bot": ALLOWED, "orders": DENIED, "kiosk": ALLOWED, "stranger": UNKNOWN},
    "grpc.reflection.v1alpha.ServerReflection": {
        "bot": ALLOWED,
        "orders": DENIED,
        "kiosk": ALLOWED,
        "stranger": UNKNOWN,
    },
}


def test_the_policy_knows_every_rpc_of_the_service() -> None:
    beside = {name.rpartition(".")[2] for name in BESIDE}
    assert {rpc.value for rpc in Rpc} == {method.name for method in SERVICE.methods} | beside


@pytest.mark.parametrize("caller", CALLERS)
async def test_every_service_beside_it_is_for_whom_the_table_says(running: Running, caller: str) -> None:
    """What the server serves is what reflection tells."""
    async with running.channel(running.pki.bot) as channel:
        ask = ServerReflectionRequest(list_services="")
        (told,) = [answer async for answer in ServerReflectionStub(channel).ServerReflectionInfo(iter([ask]))]
    served = {service.name for service in told.list_services_response.service}
    assert served == {SERVICE.full_name, *BESIDE}
    for service, expected in BESIDE.items():
        async with running.channel(getattr(running.pki, caller)) as channel:
            assert await outcome_of(channel, service) == expected[caller], service


async def outcome_of(channel: grpc.aio.Channel, service: str) -> str:
    try:
        if "health" in service:
            await HealthStub(channel).Check(HealthCheckRequest(), timeout=DEADLINE)
            watch = HealthStub(channel).Watch(HealthCheckRequest(), timeout=DEADLINE)
            await anext(aiter(watch))
        else:
            # Not as a stream: grpc.aio's client loses a status that comes as it writes (grpc/grpc#36066).
            reflect: Any = channel.unary_unary(REFLECT)  # untyped without serializers
            ask = ServerReflectionRequest(list_services="").SerializeToString()
            assert await reflect(ask, timeout=DEADLINE)
    except grpc.aio.AioRpcError as error:
        return str(refusal(error).reason)
    return ALLOWED


@pytest.mark.parametrize(("rpc", "kind", "caller"), WALK)
async def test_every_rpc_is_for_whom_the_table_says(
    running: Running, rpc: str, kind: int, caller: str
) -> None:
    assert rpc in EXPECTED, f"say here who may call {rpc}"
    whose, context = CONTEXTS[kind]
    running.tokens.kept["acme", whose] = issued()
    running.delegations.pending["state-1"] = DelegationRequest("acme", whose, caller)
    request = GetMessageClass(SERVICE.methods_by_name[rpc].input_type)()
    if "context" in request.DESCRIPTOR.fields_by_name:
        request.MergeFrom(type(request)(brand_id="acme", context=context))
    elif "delegation_id" in request.DESCRIPTOR.fields_by_name:
        request.MergeFrom(type(request)(delegation_id="delegation-1"))
        if "confirmation_code" in request.DESCRIPTOR.fields_by_name:
            request.MergeFrom(type(request)(confirmation_code=CODE.reveal()))
    else:
        request.MergeFrom(type(request)(state="state-1", code="a code"))

    try:
        await running.call(getattr(running.pki, caller), rpc, request)
    except grpc.aio.AioRpcError as error:
        told = refusal(error)
        assert told.code is grpc.StatusCode.PERMISSION_DENIED
        outcome = told.reason
        assert running.tokens.asked == []
        assert running.tokens.kept
        assert not running.delegations.started
        assert not running.delegations.completed
    else:
        outcome = ALLOWED
    assert outcome == EXPECTED[rpc][caller][kind]


@pytest.mark.parametrize(
    "request_",
    [
        pb.StartDelegationRequest(brand_id="other", context=consumer()),
        pb.GetTokenRequest(brand_id="other", context=consumer()),
        pb.InvalidateRequest(brand_id="other", context=consumer()),
        pb.GetTokenRequest(brand_id="acme", context=consumer(), scopes=["orders", "payments"]),
        pb.GetTokenRequest(brand_id="acme", context=consumer(), include_id_token=True),
    ],
    ids=lambda request: type(request).__name__,
)
async def test_another_brand_more_scopes_and_the_id_token_are_denied(
    running: Running, request_: pb.GetTokenRequest
) -> None:
    # The bot may see any scope and the id token, but of its brand only; the brand service neither.
    certificate = running.pki.bot if request_.brand_id == "other" else running.pki.orders
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.call(certificate, type(request_).__name__.removesuffix("Request"), request_)
    assert refusal(caught.value).reason == DENIED
    assert running.tokens.asked == []


async def test_another_brands_delegation_is_not_completed(running: Running) -> None:
    running.delegations.pending["state-1"] = DelegationRequest("other", CONTEXTS[0][0], "bot")
    request = pb.CompleteDelegationRequest(state="state-1", code="a code")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.call(running.pki.bot, "CompleteDelegation", request)
    assert refusal(caught.value).reason == DENIED
    assert running.delegations.pending
