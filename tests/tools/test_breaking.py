"""`make lint` compares the contract with the last release, or with main, and says where it cannot."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROTO = Path("proto/tokenvault/v1/token_vault.proto")
_NOBODY = {
    f"GIT_{who}_{what}": "nobody@tokenvault.test"
    for who in ("AUTHOR", "COMMITTER")
    for what in ("NAME", "EMAIL")
} | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, env=os.environ | _NOBODY, check=True, capture_output=True)


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-m", "a change", "--allow-empty")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    shutil.copytree(ROOT / "proto", folder / "proto")
    git(folder, "init", "-b", "main")
    commit(folder)
    return folder


def lint(folder: Path) -> "subprocess.CompletedProcess[str]":
    # no higher than the folder: the project may lie in somebody's repository
    environment = (
        os.environ | _NOBODY | {"PYTHONPATH": str(ROOT), "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    )
    command = [sys.executable, "-m", "tests.tools.breaking"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def change(folder: Path, old: str = "  string token_version = 5;", new: str = "") -> None:
    proto = folder / PROTO
    text = proto.read_text()
    assert old in text
    proto.write_text(text.replace(old, new))


def test_what_breaks_main_is_found_on_main_and_beside_it(project: Path) -> None:
    git(project, "checkout", "-b", "topic")
    change(project)
    commit(project)
    commit(project)
    done = lint(project)
    assert done.returncode != 0
    assert 'field "5"' in done.stdout
    git(project, "checkout", "main")
    git(project, "merge", "--squash", "topic")
    commit(project)
    assert lint(project).returncode != 0


def test_what_is_added_breaks_nothing(project: Path) -> None:
    change(project, "  bool degraded = 7;", "  bool degraded = 7;\n  string added = 8;")
    commit(project)
    done = lint(project)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_release_goes_before_main(project: Path) -> None:
    change(project, "  bool degraded = 7;", "  bool degraded = 7;\n  string taken_back = 8;")
    commit(project)
    git(project, "checkout", "HEAD^")
    git(project, "tag", "v1")
    git(project, "checkout", "main")
    change(project, "\n  string taken_back = 8;")
    commit(project)
    done = lint(project)
    assert (done.returncode, done.stdout) == (0, "buf breaking against v1\n")
    git(project, "tag", "v2")
    assert lint(project).stdout == "buf breaking against v1\n"


def test_without_history_it_says_that_it_did_not_run(project: Path, tmp_path: Path) -> None:
    commit(project)
    git(tmp_path, "clone", "--depth", "1", f"file://{project}", "shallow")
    shutil.copytree(ROOT / "proto", tmp_path / "plain" / "proto")
    for folder in (tmp_path / "shallow", tmp_path / "plain"):
        done = lint(folder)
        assert done.returncode == 0
        assert done.stderr.startswith("=== DID NOT RUN: buf breaking")
