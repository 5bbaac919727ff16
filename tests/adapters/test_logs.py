"""What the log lines look like."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tokenvault_sidecar
from tokenvault_sidecar.adapters.logs import LEVELS
from tokenvault_sidecar.api import call_log
from tokenvault_sidecar.core.errors import Reason
from tokenvault_sidecar.core.vault import UNSAVED

_SAY = """
import sys
from tokenvault_sidecar.adapters.logs import LogEvents, configure_logging
configure_logging("info", sys.argv[1])
LogEvents()("renewal", brand="acme", outcome="as_unavailable")
LogEvents()("renewal", brand="acme", outcome="renewed")
"""


def log(form: str) -> str:
    """What a process logs into a file."""
    command = [sys.executable, "-W", "error", "-c", _SAY, form]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stderr


def test_json_lines_carry_the_facts_and_a_level_from_the_table() -> None:
    [line] = log("json").splitlines()
    entry = json.loads(line)
    assert entry.pop("timestamp").endswith("Z")
    assert entry == {"event": "renewal", "level": "warning", "brand": "acme", "outcome": "as_unavailable"}


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_log_file_holds_no_terminal_colours(form: str) -> None:
    text = log(form)
    assert "renewal" in text
    assert "\x1b" not in text


_MANY = """
import asyncio
from tokenvault_sidecar.adapters import repeats
from tokenvault_sidecar.adapters.logs import LogEvents, configure_logging
repeats.WINDOW = 0.2
configure_logging("info", "json", lambda: {"brand": "the call's", "request_id": "r-1"})
async def main():
    for number in range(100):
        LogEvents()("revocation_waits", brand="acme", reason="AS_UNAVAILABLE", tries=number)
        LogEvents()("reloaded")
    LogEvents()("revocation_waits", brand="umbrella", reason="AS_UNAVAILABLE", tries=1)
    LogEvents()("purged", grants=7)
    await asyncio.sleep(0.4)
    LogEvents()("revocation_waits", brand="acme", reason="AS_UNAVAILABLE", tries=100)
asyncio.run(main())
"""


def test_of_lines_alike_the_first_few_are_logged_and_then_how_many_more_there_were() -> None:
    command = [sys.executable, "-W", "error", "-c", _MANY]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stderr
    lines = [json.loads(line) for line in said.splitlines()]
    assert [line["tries"] for line in lines if line.get("brand") == "acme" and "tries" in line] == [
        *range(5),
        100,
    ]
    assert [line["event"] for line in lines if line.get("brand") == "umbrella"] == ["revocation_waits"]
    assert len([line for line in lines if line["event"] == "reloaded"]) == 100  # who did that waits for it
    [purged] = [line for line in lines if line["event"] == "purged"]
    assert purged["brand"] == "the call's"  # what is known of the call, where the line does not say
    assert purged["request_id"] == "r-1"
    [summary] = [line for line in lines if "suppressed" in line]
    assert summary["suppressed"] == 95
    assert (summary["event"], summary["level"], summary["brand"], summary["reason"]) == (
        "revocation_waits",
        "warning",
        "acme",
        "AS_UNAVAILABLE",
    )


def _emitted() -> Iterator[tuple[str, str]]:
    """Each event that code emits, with each outcome written there: "*" where it is computed."""
    for file in sorted(Path(tokenvault_sidecar.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr in ("insist", "write_soon"):
                yield from ((event, "") for event in _insisted(node))
            if node.func.attr not in ("events", "_events") or ast.unparse(node.args[0]) == "event":
                continue
            assert isinstance(node.args[0], ast.Constant), f"{file}: an event whose name is computed"
            outcomes = [word.value for word in node.keywords if word.arg == "outcome"]
            assert all(word.arg for word in node.keywords), f"{file}: facts that are computed"
            for outcome in outcomes or [ast.Constant("")]:
                yield (
                    str(node.args[0].value),
                    str(outcome.value) if isinstance(outcome, ast.Constant) else "*",
                )


def _insisted(call: ast.Call) -> Iterator[str]:
    """The event that the core is to emit where it cannot write; "event" is one that is handed on."""
    for given in (word.value for word in call.keywords if word.arg == "event"):
        if isinstance(given, ast.Constant):
            yield str(given.value)
        elif ast.unparse(given) != "event":
            assert ast.unparse(given) == "UNSAVED", "an event whose name is computed"
            yield UNSAVED


_COMPUTED = {
    "delegation": [reason.value.lower() for reason in Reason],
    "renewal": ["ambiguous", "as_unavailable", "as_misconfigured"],
}
"""The outcomes where code computes them."""


def test_every_event_has_a_level_that_was_chosen() -> None:
    emitted = set(_emitted())
    assert len({event for event, _ in emitted}) > 12
    names = {
        f"{event} {outcome}".strip()
        for event, written in emitted
        for outcome in (_COMPUTED[event] if written == "*" else [written])
    }
    assert names == set(LEVELS)


def test_every_way_a_call_may_fail_has_a_level_that_was_chosen() -> None:
    assert set(call_log.LEVELS) == set(Reason) - {Reason.INTERNAL}  # logged as a defect
