"""Dashboard and alerts ask for what a running sidecar tells, in PromQL; every alert says what to do."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import pytest_asyncio
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.authserver.scripted import Reply, ScriptedServer
from tests.e2e.scripted import delegate, issuing, scripted_brand, token_path
from tests.e2e.vaults import Whose, connect, make_vault, running
from tests.ops.ports import get

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "observability"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((DEPLOY / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "dashboard.json").read_text(encoding="utf-8"))
PANELS = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}
EXPRESSIONS = {rule["alert"]: rule["expr"] for rule in RULES} | PANELS
SCRAPER = {"instance", "job"}
"""Labels that Prometheus adds by itself."""

Series = dict[str, set[str]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def series(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Series]:
    """The labels of every metric of a sidecar that was used."""
    async with ScriptedServer() as server:
        server.on(token_path("acme"), issuing(server))
        server.on("/acme/revoke", Reply())
        brands = {"acme": scripted_brand(server, "acme")}
        folder = tmp_path_factory.mktemp("observability") / "vault"
        config = make_vault(folder, brands, server={"workers": 2})  # which tell what one does, and more
        async with running(config) as sidecar, connect(sidecar) as bot:
            await delegate(bot, server, "acme", Whose(consumer="c-1"))
            await bot.get_token("acme", consumer="c-1")
            text = (await get(sidecar, "/metrics")).text
    yield {
        sample.name: set(sample.labels) | SCRAPER
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def parsed(expression: str) -> promql_parser.Expr:
    """Grafana's own variable stands for a span."""
    return promql_parser.parse(expression.replace("$__rate_interval", "5m"))


def parts(expression: object) -> Iterator[object]:
    """The expression, and all that it is made of."""
    yield expression
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        inner = getattr(expression, name, None)
        if inner is not None and not isinstance(inner, str | float):
            yield from parts(inner)
    for inner in getattr(expression, "args", None) or ():
        yield from parts(inner)


def selected(expression: object) -> dict[str, set[str]]:
    """The metrics that an expression asks for, and the labels by which it chooses."""
    found: dict[str, set[str]] = {}
    for part in parts(expression):
        if isinstance(part, promql_parser.VectorSelector):
            assert part.name
            found.setdefault(part.name, set()).update(m.name for m in part.matchers.matchers)
    return found


def grouped(expression: object) -> set[str]:
    """The labels by which it groups."""
    return {
        label
        for part in parts(expression)
        if isinstance(part, promql_parser.AggregateExpr) and part.modifier
        for label in part.modifier.labels
    }


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", EXPRESSIONS)
async def test_what_it_asks_for_is_told(name: str, series: Series) -> None:
    expression = parsed(EXPRESSIONS[name])
    asked = selected(expression)
    assert asked
    for metric, labels in asked.items():
        assert metric in series, f"{name}: no such metric: {metric}"
        assert labels <= series[metric], f"{name}: {metric} has no label {labels - series[metric]}"
        assert grouped(expression) <= series[metric], f"{name}: {metric} cannot be grouped so"


@pytest.mark.asyncio(loop_scope="module")
async def test_every_metric_is_on_the_dashboard(series: Series) -> None:
    shown = {metric for expression in PANELS.values() for metric in selected(parsed(expression))}
    told = {name for name in series if name.startswith("tokenvault_") and not name.endswith("_created")}
    spread = ("_sum", "_count")  # of a histogram whose buckets are shown
    assert {name for name in told - shown if not name.endswith(spread)} == set()


def test_the_walk_sees_every_metric_written() -> None:
    for name, expression in EXPRESSIONS.items():
        written = set(re.findall(r"\b(?:tokenvault|process)_\w+", expression))
        assert set(selected(parsed(expression))) == written, name


def test_labels_in_texts_are_the_expressions() -> None:
    for rule in RULES:
        named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert named <= {"brand", "check", "caller", "reason"}
        assert set(rule) - {"for"} == {"alert", "expr", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning")


def test_every_alert_has_a_heading_that_says_what_to_do() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    _, _, section = page.partition("## Alerts, and what to do for each\n")
    section = re.split(r"^## ", section, flags=re.M)[0]
    said = dict(re.findall(r"^### (\w+)\n\n(Critical|Warning)\. ", section, flags=re.M))
    assert said == {rule["alert"]: rule["labels"]["severity"].capitalize() for rule in RULES}
    assert len(re.findall(r"^### ", section, flags=re.M)) == len(RULES)
    for rule in RULES:
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
