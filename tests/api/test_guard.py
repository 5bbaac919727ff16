"""What every call passes, whatever the service."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog

from tests.api.running import BOT, CALLERS, DEADLINE, Pki, Running, consumer, refusal, serving
from tests.fakes.usecases import issued
from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault.v1.token_vault_pb2_grpc import TokenVaultStub
from tokenvault_sidecar.api.calls import current_call
from tokenvault_sidecar.api.guard import Admission
from tokenvault_sidecar.core.errors import Reason
from tokenvault_sidecar.core.limits import Limits
from tokenvault_sidecar.core.model import Context, ContextKind
from tokenvault_sidecar.core.policy import Policy
from tokenvault_sidecar.devkit import Issued

Servicing = grpc.aio.ServicerContext[Any, Any]
GET_TOKEN = "/tokenvault.v1.TokenVault/GetToken"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
REQUEST = pb.GetTokenRequest(brand_id="acme", context=consumer())


async def test_an_unknown_caller_is_told_what_it_is(running: Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.call(running.pki.stranger, "GetToken", REQUEST)
    told = refusal(caught.value)
    assert (told.code, told.reason) == (grpc.StatusCode.PERMISSION_DENIED, Reason.UNKNOWN_CALLER)
    assert "spiffe://platform.example/stranger" in told.message
    assert running.tokens.asked == []


@pytest.mark.parametrize(
    ("uris", "dns", "why"),
    [
        ([BOT, f"{BOT}/2"], [], "several URI names"),
        ([], ["bot.example", "orders.acme.example"], "several DNS names"),
        ([], ["*.acme.example"], "wildcard"),
        ([], [], "no DNS name"),
    ],
)
async def test_an_ambiguous_certificate_is_refused(
    running: Running, uris: list[str], dns: list[str], why: str
) -> None:
    certificate = running.pki.ca.issue(name="bot", uris=uris, dns=dns)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.call(certificate, "GetToken", REQUEST)
    told = refusal(caught.value)
    assert told.reason == Reason.UNKNOWN_CALLER
    assert why in told.message


async def test_tls_1_2_is_refused(running: Running, tmp_path: Path) -> None:
    """By the call: gRPC's servers still shake hands on it. Its clients cannot be held to it, so by hand."""
    answer = await _call_over_tls_1_2(running, tmp_path)
    assert b"the connection uses TLSv1.2: connect with TLS 1.3" in answer
    assert running.tokens.asked == []


async def _call_over_tls_1_2(running: Running, folder: Path) -> bytes:
    ca, client = folder / "ca.pem", folder / "client.pem"
    ca.write_bytes(running.pki.ca.certificate_pem)
    client.write_bytes(running.pki.bot.certificate_pem + running.pki.bot.private_key_pem)
    context = ssl.create_default_context(cafile=str(ca))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(client)
    context.set_alpn_protocols(["h2"])
    host, _, port = running.addresses[0].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname="localhost")

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:  # RFC 9113 section 4.1
        return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload

    headers = {
        b":method": b"POST",
        b":scheme": b"https",
        b":path": b"/tokenvault.v1.TokenVault/GetToken",
        b":authority": b"localhost",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }
    fields = b"".join(  # RFC 7541 section 6.2.2: literals, new names
        b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in headers.items()
    )
    message = REQUEST.SerializeToString()
    writer.write(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(4, 0, 0, b"")
        + frame(1, 4, 1, fields)
        + frame(0, 1, 1, b"\0" + len(message).to_bytes(4) + message)
    )
    answer = b""
    try:
        async with asyncio.timeout(DEADLINE):
            while b"grpc-message" not in answer and (received := await reader.read(65536)):
                answer += received
    finally:
        writer.close()
    return answer


async def test_a_defect_is_told_to_the_log_and_its_text_to_nobody(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    defect = RuntimeError("canary")
    defect.__cause__ = KeyError("canary")
    running.tokens.fails = defect
    with structlog.testing.capture_logs() as logs, pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.call(running.pki.bot, "GetToken", REQUEST)
    told = refusal(caught.value)
    assert (told.code, told.reason) == (grpc.StatusCode.INTERNAL, Reason.INTERNAL)
    assert "canary" not in repr((told, logs, caplog.text, caught.value))
    (entry,) = logs
    assert entry["event"] == "call_failed_unexpectedly"
    assert entry["method"] == "/tokenvault.v1.TokenVault/GetToken"
    assert entry["caller"] == "bot"
    assert entry["errors"] == ["builtins.RuntimeError", "builtins.KeyError"]
    assert entry["where"][-1].startswith("tests.fakes.usecases:")


MALFORMED = pytest.mark.parametrize("data", [b"\xff", b"\x0a\x02\xff\xff"], ids=["no protobuf", "no UTF-8"])


@MALFORMED
async def test_a_malformed_request_is_invalid(running: Running, data: bytes) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.raw(running.pki.bot, GET_TOKEN, data)
    told = refusal(caught.value)
    assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_REQUEST)


@MALFORMED
@pytest.mark.parametrize("method", [WATCH, REFLECT])
async def test_so_it_is_where_the_answer_is_a_stream(running: Running, method: str, data: bytes) -> None:
    assert await _told_of_stream(running, running.pki.bot, method, data) == Reason.INVALID_REQUEST


@pytest.mark.parametrize("method", [GET_TOKEN, WATCH, REFLECT])
async def test_an_unknown_caller_learns_nothing_of_its_request(running: Running, method: str) -> None:
    assert await _told_of_stream(running, running.pki.stranger, method, b"\xff") == Reason.UNKNOWN_CALLER


async def _told_of_stream(running: Running, client: Issued, method: str, data: bytes) -> str | None:
    """Why it is refused. On the wire a call with one request and one without a stream look the same."""
    async with running.channel(client) as channel:
        call: Any = channel.unary_stream(method)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(call(data, timeout=DEADLINE)))
    return refusal(caught.value).reason


@pytest.mark.parametrize("method", [GET_TOKEN, WATCH])
async def test_a_call_without_a_request_is_invalid(running: Running, method: str) -> None:
    """gRPC's own servers leave it without an answer."""
    async with running.channel(running.pki.bot) as channel:
        call: Any = channel.stream_stream(method)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(call(iter(()), timeout=DEADLINE)))
    assert refusal(caught.value).reason == Reason.INVALID_REQUEST


async def test_a_request_that_does_not_come_is_not_waited_for_without_end(pki: Pki) -> None:
    """It counts as a call under way, and ends as one."""
    admission = Admission(Policy(CALLERS), {"bot": Limits(concurrency=1)})

    async def reason(channel: grpc.aio.Channel) -> str | None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await TokenVaultStub(channel).GetToken(REQUEST, timeout=DEADLINE)
        return refusal(caught.value).reason

    async with serving(pki, admission=admission, longest=3.0) as running, running.channel(pki.bot) as channel:
        silent: Any = channel.stream_stream(GET_TOKEN)
        call = silent()
        async with asyncio.timeout(DEADLINE):
            while await reason(channel) != Reason.RATE_LIMITED:  # until the silent one has arrived
                if call.done():  # refused itself: it arrived while this one was under way
                    call = silent()
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await reason(channel) == Reason.GRANT_NOT_FOUND


async def test_a_method_its_servicer_lacks_is_unimplemented(running: Running) -> None:
    """It is in the proto, but grpcio's servicer has not caught up."""
    with pytest.raises(grpc.aio.AioRpcError) as caught, structlog.testing.capture_logs() as logs:
        await running.raw(running.pki.bot, "/grpc.health.v1.Health/List", b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert [entry["event"] for entry in logs] == ["call_failed"]


@pytest.mark.parametrize("method", ["/tokenvault.v1.TokenVault/ExportTokens", "/other.Service/Call"])
async def test_an_unknown_method_is_unimplemented(running: Running, method: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.raw(running.pki.bot, method, b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_caller_that_goes_away_cancels_the_use_case(running: Running) -> None:
    running.tokens.hold = asyncio.Event()
    with structlog.testing.capture_logs() as logs:
        async with running.channel(running.pki.bot) as channel:
            call = TokenVaultStub(channel).GetToken(REQUEST)
            await asyncio.wait_for(running.tokens.entered.wait(), DEADLINE)
            call.cancel()
            await asyncio.wait_for(running.tokens.cancelled.wait(), DEADLINE)
    assert [entry["reason"] for entry in logs] == ["CANCELLED"]


async def test_calls_under_way_together_have_each_its_own_caller(running: Running) -> None:
    async def ask(certificate: Issued) -> None:
        await running.call(certificate, "GetToken", REQUEST)

    running.tokens.kept["acme", _alice()] = issued()
    await asyncio.gather(*(ask(c) for c in (running.pki.bot, running.pki.orders) * 3))
    assert sorted(asked.keeps_session_alive for asked in running.tokens.asked) == [False] * 3 + [True] * 3


def _alice() -> Context:
    return Context(ContextKind.CONSUMER, "alice")


async def _who(data: bytes, context: Servicing) -> bytes:
    if data == b"abort":
        await context.abort(grpc.StatusCode.ALREADY_EXISTS, "of its own")
    return current_call.get().known_caller.name.encode()


async def _watch(data: bytes, context: Servicing) -> AsyncIterator[bytes]:
    yield b"leaked"


OTHER: dict[str, dict[str, Any]] = {
    "other.Service": {
        "Who": grpc.unary_unary_rpc_method_handler(_who),
        "Watch": grpc.unary_stream_rpc_method_handler(_watch),
    }
}


async def test_other_services_are_for_known_callers_too(pki: Pki) -> None:
    async with serving(pki, handlers=OTHER) as running:
        assert await running.raw(pki.bot, "/other.Service/Who", b"") == b"bot"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.raw(pki.bot, "/other.Service/Who", b"abort")
        assert refusal(caught.value).code is grpc.StatusCode.ALREADY_EXISTS
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.raw(pki.stranger, "/other.Service/Who", b"")
        assert refusal(caught.value).reason == Reason.UNKNOWN_CALLER


async def test_a_stream_does_not_slip_by(pki: Pki) -> None:
    async with serving(pki, handlers=OTHER) as running, running.channel(pki.stranger) as channel:
        watch: Any = channel.unary_stream("/other.Service/Watch")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(watch(b"", timeout=DEADLINE)))
    assert refusal(caught.value).reason == Reason.UNKNOWN_CALLER
