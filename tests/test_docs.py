"""What the pages say of the tests is so: every test they name exists."""

import ast
import re
import shlex
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.running import COMMAND

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
NAMED = sorted(
    {
        (page.name, *named)
        for page in PAGES
        for named in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text(encoding="utf-8"))
    }
)


@cache
def found_in(file: Path) -> frozenset[str]:
    """The test functions of a file; none where there is no such file."""
    if not file.is_file():
        return frozenset()
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return frozenset(function.name for function in functions if function.name.startswith("test_"))


def test_there_is_something_to_check() -> None:
    assert len(NAMED) > 40
    assert found_in(ROOT / "tests" / "test_docs.py") >= {"test_there_is_something_to_check"}


@pytest.mark.parametrize(("page", "file", "test"), NAMED, ids=[f"{file}::{test}" for _, file, test in NAMED])
def test_a_test_that_a_page_names_exists(page: str, file: str, test: str) -> None:
    assert found_in(ROOT / file), f"{page} names {file}, which is no file of tests"
    assert not test or test in found_in(ROOT / file), f"{page} names {file}::{test}, which is no test"


def test_every_mention_of_a_test_is_understood() -> None:
    """So that a misspelt one does not go unseen."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = [named for named in NAMED if named[0] == page.name]
        mentions = re.findall(r"tests/\S+\.py(?:::\w+)?", text)
        assert {"::".join(filter(None, named[1:])) for named in found} == set(mentions)


def test_whoever_is_shown_to_start_delegations_may_bring_them_to_an_end() -> None:
    template = ROOT / "vault" / "tokenvault_sidecar" / "devkit" / "tokenvault.toml.template"
    deployed = (file for kind in ("*.toml", "*.yaml") for file in (ROOT / "deploy").rglob(kind))
    found = [
        (file.name, set(re.findall(r'"(\w+)"', rpcs)))
        for file in (*PAGES, *deployed, template)
        for rpcs in re.findall(r"^ *rpcs = \[[^]]*\]", file.read_text(encoding="utf-8"), re.M)
        if "StartDelegation" in rpcs
    ]
    assert len(found) >= 8
    needed = {"CompleteDelegation", "ConfirmDelegation", "WatchDelegation", "GetToken"}
    assert [(name, needed - rpcs) for name, rpcs in found if not needed <= rpcs] == []


def test_the_threat_model_names_a_test_for_every_row() -> None:
    text = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
    tables = re.findall(r"\| shown by \|\n\|[-|]+\|\n((?:\|.*\n)+)", text)
    assert len(tables) == 3
    for row in "".join(tables).splitlines():
        assert "::test_" in row.split(" | ")[-1], row


def commands_of(page: str) -> list[list[str]]:
    """Each `tokenvault` command in its blocks, in words."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```(?:sh|console)\n(.*?)^ *```", text, re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    commands = [re.match(r" *(?:\$ )?(?:/\S*/)?tokenvault (.*)", line) for line in lines]
    return [shlex.split(found[1]) for found in commands if found]


@pytest.mark.parametrize("words", commands_of("operations.md"), ids=" ".join)
def test_every_command_of_operations_is_understood(words: list[str], tmp_path: Path) -> None:
    """As far as its files, which are not there: a command or option that is none has another error."""
    # In a process of its own: `serve` hardens the one it is in.
    done = subprocess.run(
        [*COMMAND, *words], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "Usage:" not in done.stderr, done.stderr
    assert re.search(r"no such (?:file|store)|is not there", done.stderr), done.stderr
