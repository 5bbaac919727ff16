"""The Node client's package in an empty project, and its README's snippet: from link to API."""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.authserver.node import Node, ensure_installed
from tests.client.bot_example import ANSWERED, played, tried
from tests.clients.stage import Stage, stage

HOME = Path("client/node").resolve()
_PLAY = """
import { ordersOf } from "./snippet.mjs";
const [conversation, url] = process.argv.slice(2);
const answer = await ordersOf(conversation, url, (link) => console.log(`please log in: ${link}`));
console.log(`the brand's API answered ${answer.status}`);
process.exit();
"""


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), access_token_ttl=600) as there:
        yield there


@pytest.fixture(scope="module")
def node() -> Node:
    return ensure_installed(HOME)


def test_it_is_tried(there: Stage, node: Node, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "node").symlink_to(node.executable)
    (programs / "npm").write_text(f'#!/bin/sh\nexec {shlex.join(node.npm)} "$@"\n')
    (programs / "npm").chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    quick = {
        "npm_config_ignore_scripts": "true",
        "npm_config_prefer_offline": "true",
        "npm_config_audit": "false",
    }
    assert tried(HOME, tmp_path / "project", there, PATH=path, **quick) == ANSWERED


def test_its_snippet(there: Stage, node: Node, tmp_path: Path) -> None:
    (snippet,) = re.findall(r"```js\n(.*?)```", (HOME / "README.md").read_text(), flags=re.DOTALL)
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "tokenvault").symlink_to(HOME)
    (tmp_path / "snippet.mjs").write_text(snippet)
    (tmp_path / "play.mjs").write_text(_PLAY)
    command = [node.executable, str(tmp_path / "play.mjs"), "conversation-2", there.api.url]
    assert played(command, there) == ANSWERED
