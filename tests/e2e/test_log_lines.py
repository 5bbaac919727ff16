"""The lines of a call: whose it is, and by which id its caller finds them."""

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.authserver.scripted import Reply, ScriptedServer
from tests.e2e.scripted import delegate, issuing, scripted_brand, token_path
from tests.e2e.vaults import BOT, PATIENCE, STRANGER, Whose, connect, make_vault, running
from tests.running import SidecarProcess, caller_files
from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault.v1.token_vault_pb2_grpc import TokenVaultStub


async def _fail(
    sidecar: SidecarProcess, given: str | None, *, caller: str = BOT, consumer: str = "c-1", version: str = ""
) -> str:
    """One call that fails, with this request id; the id that its answer names."""
    files = caller_files(sidecar.folder, caller)
    ca, key, chain = (files[name].read_bytes() for name in ("ca", "private_key", "certificate"))
    credentials = grpc.ssl_channel_credentials(ca, key, chain)
    request = pb.GetTokenRequest(brand_id="acme", rejected_token_version=version)
    request.context.consumer.consumer_id = consumer
    async with grpc.aio.secure_channel(sidecar.address, credentials) as channel:
        call: Any = TokenVaultStub(channel).GetToken  # the stubs know the synchronous one only
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call(request, timeout=PATIENCE, metadata=(("x-request-id", given),) if given else ())
    [answered] = [value for name, value in failed.value.trailing_metadata() or () if name == "x-request-id"]
    return str(answered)


async def test_every_line_of_a_call_tells_whose_it_is(tmp_path: Path) -> None:
    async with ScriptedServer() as server:
        server.on(token_path("acme"), issuing(server))
        config = make_vault(tmp_path / "vault", {"acme": scripted_brand(server, "acme")})
        async with running(config) as sidecar, connect(sidecar) as bot:
            await delegate(bot, server, "acme", Whose(consumer="c-1"))
            served = await asyncio.gather(*(bot.get_token("acme", consumer="c-1") for _ in range(20)))
            server.on(token_path("acme"), Reply(status=503))
            version = served[0].token_version
            assert await _fail(sidecar, "case-4711/a", version=version) == "case-4711/a"
            made = [await _fail(sidecar, given, consumer="c-2") for given in (None, "x" * 65, "two words")]
            unknown = await _fail(sidecar, "case-12", caller=STRANGER)
        lines = [json.loads(line) for line in sidecar.stderr.read_text().splitlines()]

    assert len({*made, "x" * 65, "two words"}) == len(made) + 2
    of_case = {line["event"]: line for line in lines if line.get("request_id") == "case-4711/a"}
    assert of_case.keys() == {"renewal", "call_failed"}
    for line in of_case.values():
        assert (line["caller"], line["brand"]) == (BOT, "acme")
    assert (of_case["renewal"]["level"], of_case["renewal"]["outcome"]) == ("warning", "as_unavailable")
    [stranger] = [line for line in lines if line.get("request_id") == unknown]
    assert stranger["caller"] == f"spiffe://tokenvault.test/{STRANGER}"
    assert (stranger["level"], stranger["reason"]) == ("warning", "UNKNOWN_CALLER")
    # What succeeds is no line, nor is what is a bot's daily bread.
    assert {line["event"] for line in lines} <= {
        "ready",
        "delegation",
        "renewal",
        "call_failed",
        "stopping",
        "stopped",
    }
    assert [line["reason"] for line in lines if line["event"] == "call_failed"] == [
        "AS_UNAVAILABLE",
        "UNKNOWN_CALLER",
    ]
