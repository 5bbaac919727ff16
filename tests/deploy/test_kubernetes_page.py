"""Every command of docs/kubernetes.md, run as far as that goes without a cluster and a container engine."""

import re
import shlex
import subprocess
from base64 import b64decode
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from tests.deploy.dockerfile import ROOT
from tests.deploy.helm import CHART, EXAMPLE
from tests.deploy.manifests import KUBECTL, named, rendered
from tests.deploy.mounted import BY_HAND
from tokenvault_sidecar.cli import main

PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.splitlines() if line
]
CREATE = [command for command in COMMANDS if re.match(r"kubectl .*create ", command)]
EXEC = [command for command in COMMANDS if " exec " in command]
FOLDERS = [command for command in COMMANDS if re.match(r"kubectl (kustomize|apply -k) ", command)]
HELM = [command for command in COMMANDS if command.startswith("helm ")]
ELSEWHERE = [
    # `make image-check` takes its steps.
    "docker build -f deploy/Dockerfile -t registry.example.org/tokenvault-sidecar:0.1.0 .",
    "openssl rand -base64 32 > kek",
]


def test_every_command_is_run_here_or_elsewhere() -> None:
    assert sorted(COMMANDS) == sorted(CREATE + EXEC + FOLDERS + HELM + ELSEWHERE)
    assert min(len(CREATE), len(EXEC), len(FOLDERS)) > 1


@pytest.mark.parametrize("command", FOLDERS)
def test_what_is_sent_is_what_is_tested(command: str) -> None:
    folder = Path(command.split()[-1])
    assert folder.parent == Path("deploy/kubernetes")
    assert rendered(folder.name)


@pytest.mark.parametrize("command", CREATE)
def test_what_is_made_by_hand_is_what_is_mounted(command: str, tmp_path: Path) -> None:
    for name in ("acme", "password", "ca.crt"):
        (tmp_path / name).write_text(f"what is in {name}")
    subprocess.run(["sh", "-ec", ELSEWHERE[1]], cwd=tmp_path, check=True)
    words = [str(KUBECTL), *shlex.split(command)[1:], "--dry-run=client", "--output=yaml"]
    done = subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60)
    made = yaml.safe_load(done.stdout)
    if made["kind"] == "Namespace":
        assert made["metadata"]["name"] in named(rendered("example"), "Namespace")
        return
    assert made["data"].keys() == BY_HAND[made["metadata"]["name"]].keys()
    for key, value in made["data"].items():
        assert b64decode(value) == (tmp_path / key).read_bytes()


def test_the_chart_is_sent_as_it_is_tested() -> None:
    [command] = HELM
    words = shlex.split(command)
    assert words[:6] == ["helm", "upgrade", "--install", "a-bot", CHART, "--namespace"]
    assert [f"{words[7]}={words[8]}", f"{words[9]}={words[10]}"] == list(EXAMPLE)
    assert len(words) == 11


@pytest.mark.parametrize("command", EXEC)
def test_what_is_run_in_the_pod_is_a_command_of_the_image(command: str) -> None:
    before, _, inside = command.partition(" -- ")
    assert before == "kubectl -n bots exec deploy/bot -c tokenvault"
    program, *arguments = shlex.split(inside)
    assert program == "tokenvault"
    # Understood as far as the configuration, which is not there: a usage error would have another status.
    done = CliRunner().invoke(main, arguments)
    assert "no such file" in done.stderr, done.output
