"""What the log lines look like."""

import json
import subprocess
import sys

import pytest

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
