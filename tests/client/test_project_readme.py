"""The project's README: its snippet works, and its commands are there."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.client.conftest import Files
from tests.client.fake_vault import FakeVault
from tests.client.test_connection import set_environment
from tests.client.test_surface import consent_required
from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault_sidecar.cli import main

README = Path("README.md").resolve()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_the_snippet_challenges_then_calls(
    address: str, files: Files, fake: FakeVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, address, files)
    fake.answers.extend(
        [
            consent_required(pb.ConsentChallenge(authorization_url="https://as.example/authorize")),
            pb.GetTokenResponse(access_token="s3cret", token_type="Bearer"),
        ]
    )
    (snippet,) = blocks("python")
    bot: dict[str, Any] = {"look_up": lambda headers: f"called with {headers}"}
    exec(compile(snippet, README, "exec"), bot)
    with bot["vault"]:
        assert bot["answer"]("c-42") == "Please log in first: https://as.example/authorize"
        assert bot["answer"]("c-42") == "called with {'Authorization': 'Bearer s3cret'}"


def test_its_commands_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines()]
    commands = [line[1:] for line in lines if line and line[0] == "tokenvault"]
    assert [command[0] for command in commands] == ["init", "check-config", "serve"]
    for command in commands[:2]:  # serving has tests of its own
        assert CliRunner().invoke(main, command).exit_code == 0, command
    assert "serve" in main.commands


def test_its_make_targets_and_files_are_there() -> None:
    text, makefile = README.read_text(), README.with_name("Makefile").read_text()
    for target in set(re.findall(r"(?:^|`)make ([a-z-]+)", text, flags=re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (README.parent / link).exists(), link
    for name in re.findall(r"\| `([a-z_/]+/?)` \|", text):
        assert (README.parent / name).exists(), name
