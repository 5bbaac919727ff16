"""`make test-go`: the Go client's own tests, and its example in an empty project."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.client.bot_example import ANSWERED, tried
from tests.clients.stage import stage

CLIENT = Path(__file__).parents[2] / "client" / "go"
_ENVIRONMENT = {"GOFLAGS": "-buildvcs=false"}

pytestmark = [
    pytest.mark.timeout(600),  # the first time all of gRPC is compiled
    pytest.mark.skipif(shutil.which("go") is None, reason="go is not installed"),
]


def go(*arguments: str) -> str:
    command = subprocess.run(
        ["go", *arguments], cwd=CLIENT, env=os.environ | _ENVIRONMENT, capture_output=True, text=True
    )
    assert command.returncode == 0, command.stdout + command.stderr
    return command.stdout


def test_formatted_and_vetted() -> None:
    done = subprocess.run(["gofmt", "-l", CLIENT], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    go("vet", "./...")


def test_its_own_tests() -> None:
    assert "ok" in go("test", "./...")


def test_it_is_tried(tmp_path: Path) -> None:
    with stage(tmp_path, access_token_ttl=600) as there:
        assert tried(CLIENT, tmp_path / "project", there, **_ENVIRONMENT) == ANSWERED
