"""Traces: a caller's goes on to the authorization server, and tells no secret; collectors disturb nothing."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.access.steering import channel, said, says
from tests.authserver.scripted import Reply, ScriptedServer
from tests.e2e.canaries import Canaries
from tests.e2e.commands import tokenvault
from tests.e2e.scripted import consent, delegate, issuing, scripted_brand, token_path
from tests.e2e.vaults import BOT, Whose, connect, eventually, make_vault, running
from tests.running import CannotStart, SidecarProcess
from tokenvault import InvalidRequest, StateNotFound, TokenVaultError
from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault.v1.token_vault_pb2_grpc import TokenVaultStub

ALICE = Whose(consumer="alice")
SPANS = "/v1/traces"
TELLS_IMPORTS = ("env", "PYTHONPROFILEIMPORTTIME=1")
"""Python says on stderr what it imports."""


@pytest_asyncio.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        server.on(token_path("acme"), issuing(server))
        server.on("/acme/revoke", Reply())
        yield server


@pytest_asyncio.fixture
async def collector() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as collector:
        collector.on(SPANS, Reply())
        yield collector


@dataclass(frozen=True)
class Told:
    """A span as a collector has it."""

    span: Span

    @property
    def trace(self) -> str:
        return self.span.trace_id.hex()

    @property
    def facts(self) -> dict[str, object]:
        return {
            fact.key: getattr(fact.value, fact.value.WhichOneof("value") or "")
            for fact in self.span.attributes
        }


def spans(collector: ScriptedServer) -> list[Told]:
    return [
        Told(span)
        for seen in collector.requests(SPANS)
        for resource in ExportTraceServiceRequest.FromString(seen.body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


async def told(collector: ScriptedServer, name: str, facts: Mapping[str, object]) -> Told:
    """The span of this name and with these facts, once it has come."""

    async def there() -> Told | None:
        found = [one for one in spans(collector) if one.span.name == name]
        return next((one for one in found if facts.items() <= one.facts.items()), None)

    found = await eventually(there)
    assert found is not None
    return found


def vault(folder: Path, asked: ScriptedServer, endpoint: str, **tables: Mapping[str, Any]) -> Path:
    brand = scripted_brand(asked, "acme")
    tracing = {"endpoint": endpoint} | dict(tables.pop("tracing", {}))
    return make_vault(folder / "vault", {"acme": brand}, tracing=tracing, **tables)


async def renew(sidecar: SidecarProcess, **metadata: str) -> None:
    """Ask for alice's token in a way that it must be renewed."""
    async with connect(sidecar) as bot, channel(sidecar, BOT) as wire:
        version = (await bot.get_token("acme", **ALICE)).token_version
        asked = pb.GetTokenRequest(
            brand_id="acme",
            context=pb.Context(consumer=pb.ConsumerContext(consumer_id="alice")),
            rejected_token_version=version,
        )
        await TokenVaultStub(wire).GetToken(asked, metadata=tuple(metadata.items()), timeout=30)


@asynccontextmanager
async def alone(config: Path, *prefix: str) -> AsyncIterator[SidecarProcess]:
    sidecar = SidecarProcess(config, prefix=prefix)
    await asyncio.to_thread(sidecar.start)
    try:
        yield sidecar
    finally:
        await asyncio.to_thread(sidecar.stop)


async def test_a_callers_trace_goes_through_to_the_authorization_server(
    tmp_path: Path, server: ScriptedServer, collector: ScriptedServer
) -> None:
    """Of calls without one none is kept at ratio 0; whether another is, its beginner decides."""
    config = vault(tmp_path, server, collector.url + SPANS, tracing={"sample_ratio": 0.0})
    kept, unkept = "0af7651916cd43dd8448eb211c80319c", "1bf7651916cd43dd8448eb211c80319d"
    begun = "b7ad6b7169203331"
    async with running(config) as sidecar, connect(sidecar) as bot:
        await delegate(bot, server, "acme", ALICE)
        await renew(sidecar, traceparent=f"00-{unkept}-{begun}-00", tracestate="vendor=private")
        refused = server.requests(token_path("acme"))[-1].headers
        await renew(sidecar, traceparent=f"00-{kept}-{begun}-01", tracestate="vendor=private")
        carried = server.requests(token_path("acme"))[-1].headers
        call = await told(collector, "GetToken", {})
        request = await told(collector, "POST", {})
    assert refused["traceparent"].startswith(f"00-{unkept}-")
    assert refused["traceparent"].endswith("-00")
    assert "tracestate" not in carried
    assert carried["traceparent"] == f"00-{kept}-{request.span.span_id.hex()}-01"
    assert {one.trace for one in spans(collector)} == {kept}
    assert call.span.parent_span_id.hex() == begun
    assert request.span.parent_span_id == call.span.span_id
    assert call.facts == {
        "rpc.system": "grpc",
        "rpc.method": "GetToken",
        "tokenvault.caller": BOT,
        "tokenvault.brand": "acme",
        "tokenvault.reason": "OK",
    }
    assert request.facts == {
        "http.request.method": "POST",
        "url.full": server.url + token_path("acme"),
        "http.response.status_code": 200,
        "tokenvault.brand": "acme",
    }


async def test_no_secret_and_nobodys_id_is_in_a_trace(
    tmp_path: Path, server: ScriptedServer, collector: ScriptedServer
) -> None:
    secrets = Canaries()
    config = vault(tmp_path, server, collector.url + SPANS)
    query = secrets.plant("query of an endpoint")
    config.write_text(config.read_text().replace("/acme/revoke", f"/acme/revoke?{query}"))
    consumer = Whose(consumer=secrets.plant("consumer id"))
    account = secrets.plant("subject")
    async with alone(config, *TELLS_IMPORTS) as sidecar, connect(sidecar) as bot:
        challenge = await bot.start_delegation("acme", **consumer)
        answer = consent(server, challenge, account)
        for parameter in ("state", "code"):
            secrets.know(parameter, answer[parameter])
        await bot.complete_delegation(answer)
        token = await bot.get_token("acme", **consumer, include_id_token=True)
        secrets.know("access token", token.access_token)
        server.on(token_path("acme"), Reply(status=503, json={"error": secrets.plant("error")}))
        with pytest.raises(TokenVaultError):
            await bot.get_token("acme", **consumer, rejected_token_version=token.token_version)
        with pytest.raises(InvalidRequest):
            await bot.get_token(secrets.plant("unknown brand"), **consumer)
        with pytest.raises(StateNotFound):
            await bot.complete_delegation(answer | {"state": secrets.plant("unknown state")})
        await bot.invalidate("acme", **consumer)
        await server.arrived("/acme/revoke")
        failed = await told(collector, "GetToken", {"tokenvault.reason": "AS_UNAVAILABLE"})
        asked = await told(collector, "POST", {"http.response.status_code": 503})
        await told(collector, "POST", {"url.full": server.url + "/acme/revoke"})
        await told(collector, "CompleteDelegation", {"tokenvault.reason": "STATE_NOT_FOUND"})
        unknown = await told(collector, "GetToken", {"tokenvault.reason": "INVALID_REQUEST"})
    assert "opentelemetry.sdk.trace" in sidecar.stderr.read_text()
    assert failed.span.status.code == asked.span.status.code == Status.STATUS_CODE_ERROR
    assert asked.trace == failed.trace != unknown.trace
    assert "tokenvault.brand" not in unknown.facts
    for seen in server.seen:
        for parameter in ("code_verifier", "refresh_token", "token"):
            if seen.method == "POST" and parameter in seen.form:
                secrets.know(parameter, seen.form[parameter])
    everything = {
        f"export {number}": repr(seen.headers).encode() + seen.body
        for number, seen in enumerate(collector.seen)
    }
    assert secrets.leaks(everything) == []


async def test_a_collector_that_is_away_costs_one_line(tmp_path: Path, server: ScriptedServer) -> None:
    async with ScriptedServer() as gone:
        endpoint = gone.url + SPANS
    async with running(vault(tmp_path, server, endpoint)) as sidecar, connect(sidecar) as bot:
        await delegate(bot, server, "acme", ALICE)
        await renew(sidecar)
        await says(sidecar, "traces_unsent")
        await renew(sidecar)
        assert await asyncio.to_thread(sidecar.stop) == 0
        assert len(said(sidecar, "traces_unsent")) == 1
        lines = sidecar.stderr.read_text().splitlines()
        assert all(line.startswith("{") for line in lines)
        assert not any("refused" in line for line in lines)


async def test_a_collector_that_hangs_holds_up_no_stop(
    tmp_path: Path, server: ScriptedServer, collector: ScriptedServer
) -> None:
    collector.on(SPANS, Reply(delay=asyncio.Event()))
    config = vault(
        tmp_path,
        server,
        collector.url + SPANS,
        server={"drain_timeout": "1s"},
        renewal={"redemption_deadline": "500ms"},
    )
    async with running(config) as sidecar, connect(sidecar) as bot:
        await delegate(bot, server, "acme", ALICE)
        await collector.arrived(SPANS)
        await renew(sidecar)  # sent only after what hangs
        assert await asyncio.to_thread(sidecar.stop) == 0
        began, ended = (
            datetime.fromisoformat(said(sidecar, event)[0]["timestamp"]) for event in ("stopping", "stopped")
        )
        assert (ended - began).total_seconds() < 3


async def test_without_the_extra_it_does_not_start_and_says_what_to_install(
    tmp_path: Path, server: ScriptedServer
) -> None:
    config = vault(tmp_path, server, "http://127.0.0.1:4318/v1/traces")
    shadow = tmp_path / "shadow" / "opentelemetry"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").write_text("raise ModuleNotFoundError(__name__)")
    missing = ("env", f"PYTHONPATH={shadow.parent}")
    sidecar = SidecarProcess(config, prefix=missing)
    with pytest.raises(CannotStart):
        await asyncio.to_thread(sidecar.start)
    assert sidecar.returncode == 2
    last = sidecar.stderr.read_text().splitlines()[-1]
    assert "tracing: OpenTelemetry is not installed: pip install 'tokenvault-sidecar[otel]'" in last
    status, _, complaint = await tokenvault("check-config", config, prefix=missing)
    assert (status, "pip install 'tokenvault-sidecar[otel]'" in complaint) == (2, True)
    assert (await tokenvault("check-config", config))[0] == 0


async def test_without_the_table_nothing_of_it_is_imported(tmp_path: Path, server: ScriptedServer) -> None:
    config = make_vault(tmp_path / "vault", {"acme": scripted_brand(server, "acme")})
    async with alone(config, *TELLS_IMPORTS) as sidecar, connect(sidecar) as bot:
        await delegate(bot, server, "acme", ALICE)
        await renew(sidecar, traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    imported = sidecar.stderr.read_text()
    assert "tokenvault_sidecar.wiring" in imported
    assert "opentelemetry" not in imported
    assert not any("traceparent" in seen.headers for seen in server.seen)
