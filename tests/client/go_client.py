"""`make test-go`: the Go client's own tests, and its example, built in an empty project and played."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.client.bot_example import played

CLIENT = Path(__file__).parents[2] / "client" / "go"
MODULE = "tokenvault.example/client/go"
_ENVIRONMENT = {"GOFLAGS": "-buildvcs=false"}

pytestmark = [
    pytest.mark.timeout(600),  # the first time all of gRPC is compiled
    pytest.mark.skipif(shutil.which("go") is None, reason="go is not installed"),
]


def go(*arguments: str, cwd: Path = CLIENT) -> str:
    command = subprocess.run(
        ["go", *arguments], cwd=cwd, env=os.environ | _ENVIRONMENT, capture_output=True, text=True
    )
    assert command.returncode == 0, command.stdout + command.stderr
    return command.stdout


def in_an_empty_project(source: Path, folder: Path) -> Path:
    """A program that needs the client, built as anybody would; the executable."""
    folder.mkdir()
    shutil.copy(source, folder)
    go("mod", "init", "example.test/bot", cwd=folder)
    go("mod", "edit", f"-require={MODULE}@v0.0.0", f"-replace={MODULE}={CLIENT}", cwd=folder)
    go("mod", "tidy", cwd=folder)
    go("build", "-o", "program", cwd=folder)
    return folder / "program"


def test_formatted_and_vetted() -> None:
    done = subprocess.run(["gofmt", "-l", CLIENT], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    go("vet", "./...")


def test_its_own_tests() -> None:
    assert "ok" in go("test", "./...")


def test_the_example_from_an_empty_project(tmp_path: Path) -> None:
    program = in_an_empty_project(CLIENT / "examples" / "bot" / "main.go", tmp_path / "project")
    assert played([str(program)], tmp_path / "vault") == 200
