"""What a scrape of a running sidecar says: right, bounded, and to every scraper."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.authserver.scripted import Reply, ScriptedServer
from tests.e2e.scripted import delegate, issuing, scripted_brand, token_path
from tests.e2e.vaults import BOT, SERVICE, STRANGER, Whose, connect, eventually, make_vault, running
from tests.ops.ports import get
from tests.running import SidecarProcess
from tokenvault import TokenVaultError
from tokenvault_sidecar.core.errors import Reason
from tokenvault_sidecar.core.ports import Stock
from tokenvault_sidecar.ops import gauges
from tokenvault_sidecar.ops.metrics import Metrics

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


async def scrape(sidecar: SidecarProcess) -> Samples:
    """Every sample, by name and labels."""
    said = await get(sidecar, "/metrics")
    assert said.status == 200
    return samples(said.text)


def samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found.get((f"tokenvault_{name}", frozenset(labels.items())), 0.0)


async def test_what_happened_is_counted(server: ScriptedServer, tmp_path: Path) -> None:
    server.on(token_path("acme"), issuing(server))
    server.on("/acme/revoke", Reply())
    config = make_vault(tmp_path / "vault", {"acme": scripted_brand(server, "acme")})
    consumer = Whose(consumer="c-1")
    async with running(config) as sidecar, connect(sidecar) as bot:
        await delegate(bot, server, "acme", consumer)
        await delegate(bot, server, "acme", Whose(conversation="chat-1"))
        token = await bot.get_token("acme", **consumer)
        await bot.get_token("acme", **consumer, rejected_token_version=token.token_version)
        for caller, brand in ((STRANGER, "acme"), (SERVICE, "nowhere"), (BOT, "nowhere")):
            async with connect(sidecar, caller) as other:
                with pytest.raises(TokenVaultError):
                    await other.get_token(brand, **consumer)
        found = await scrape(sidecar)
        assert value(found, "calls_total", rpc="GetToken", caller=BOT, reason="OK") == 2
        assert value(found, "calls_total", rpc="StartDelegation", caller=BOT, reason="OK") == 2
        assert value(found, "calls_total", rpc="GetToken", caller="unknown", reason="UNKNOWN_CALLER") == 1
        assert value(found, "call_duration_seconds_count", rpc="GetToken") == 5
        assert 0 < value(found, "call_duration_seconds_sum", rpc="GetToken") < 60
        assert value(found, "renewals_total", brand="acme", outcome="renewed") == 1
        assert value(found, "delegations_total", brand="acme", outcome="completed") == 2
        assert value(found, "grants", brand="acme", kind="consumer") == 1
        assert value(found, "grants", brand="acme", kind="conversation") == 1
        assert value(found, "revocations_waiting") == 0
        assert value(found, "ready", check="keys") == 1
        assert value(found, "circuit_open", brand="acme") == 0
        assert 0 < value(found, "store_commits_total") <= value(found, "store_writes_total")
        begin = value(found, "certificate_not_before_timestamp_seconds")
        assert begin < value(found, "data_key_created_timestamp_seconds") + 3600
        assert value(found, "renewal_next_due_timestamp_seconds", brand="acme") > begin
        # Of what a caller wrote nothing is a label.
        said = {label for _, labels in found for label in labels}
        assert {label for label in said if label[0] == "brand"} == {("brand", "acme")}
        callers = {label for key, label in said if key == "caller"}
        assert callers <= {BOT, SERVICE, "unknown"}
        statuses = {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "UNIMPLEMENTED"}
        assert {label for key, label in said if key == "reason"} <= statuses | set(Reason)


async def test_a_circuit_that_opened(server: ScriptedServer, tmp_path: Path) -> None:
    server.on(token_path("acme"), issuing(server))
    config = make_vault(tmp_path / "vault", {"acme": scripted_brand(server, "acme")})
    async with running(config) as sidecar, connect(sidecar) as bot:
        for number in range(6):
            await delegate(bot, server, "acme", Whose(consumer=f"c-{number}"))
        server.on(token_path("acme"), Reply(status=503))
        for number in range(6):
            token = await bot.get_token("acme", consumer=f"c-{number}")
            with pytest.raises(TokenVaultError):
                await bot.get_token(
                    "acme", consumer=f"c-{number}", rejected_token_version=token.token_version
                )

        async def opened() -> bool:
            return value(await scrape(sidecar), "circuit_open", brand="acme") == 1

        assert await eventually(opened)


async def test_the_store_is_counted_now_and_then_only() -> None:
    counted = 0

    async def count() -> Stock:
        nonlocal counted
        counted += 1
        return Stock(grants={}, next_due={}, revocations=counted, data_key_created=None)

    registry = Metrics().registry
    made = gauges.Gauges(registry, "1", lambda: gauges.State({}, {}, 0, 0.0, 0, 0, None), count)
    await asyncio.gather(*(made.refresh() for _ in range(20)))
    assert counted == 1
    assert registry.get_sample_value("tokenvault_revocations_waiting") == 1


def test_a_brand_that_is_not_configured_makes_no_series() -> None:
    metrics = Metrics()
    metrics.know(["acme"])
    for number in range(100):
        metrics("renewal", brand=f"gone-{number}", outcome="renewed")
    labels = {"brand": "unknown", "outcome": "renewed"}
    assert metrics.registry.get_sample_value("tokenvault_renewals_total", labels) == 100
