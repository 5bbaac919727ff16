"""The Node client's example and its README's snippet, from the link to the brand's API."""

import asyncio
import os
import re
import subprocess
from pathlib import Path

from tests.authserver.consumer import Consumer
from tests.authserver.node import ensure_installed
from tests.clients.stage import BRAND, stage
from tokenvault import TokenVaultClient

HOME = Path("client/node").resolve()
_PLAY = """
import { ordersOf } from "./snippet.mjs";
const [conversation, url] = process.argv.slice(2);
const answer = await ordersOf(conversation, url, (link) => console.log(`please log in: ${link}`));
console.log(`the brand's API answered ${answer.status}`);
process.exit();
"""


def said_after_login(program: Path, folder: Path, *arguments: str) -> tuple[int, str]:
    """Its status, and what it says once its consumer has logged in; it is given the API's address last."""
    node = ensure_installed(HOME)
    with stage(folder, access_token_ttl=600) as there:
        variables = there.environment("bot")
        command = [node.executable, str(program), *arguments, there.api.url]
        with subprocess.Popen(command, env=os.environ | variables, stdout=subprocess.PIPE, text=True) as bot:
            assert bot.stdout is not None
            link = bot.stdout.readline().removeprefix("please log in: ").strip()
            query = asyncio.run(Consumer().authorize(link))
            with TokenVaultClient(
                variables["TOKENVAULT_ADDRESS"],
                ca=variables["TOKENVAULT_CA"],
                certificate=variables["TOKENVAULT_CERT"],
                private_key=variables["TOKENVAULT_KEY"],
            ) as vault:
                vault.complete_delegation(query)
            said, _ = bot.communicate(timeout=60)
    return bot.returncode, said


def test_the_bot_waits_for_consent_and_calls_the_api(tmp_path: Path) -> None:
    said = said_after_login(HOME / "examples/bot.mjs", tmp_path, BRAND, "conversation-1")
    assert said == (0, "the brand's API answered 200\n")


def test_so_does_the_snippet(tmp_path: Path) -> None:
    (snippet,) = re.findall(r"```js\n(.*?)```", (HOME / "README.md").read_text(), flags=re.DOTALL)
    project = tmp_path / "project"
    (project / "node_modules").mkdir(parents=True)
    (project / "node_modules" / "tokenvault").symlink_to(HOME)
    (project / "snippet.mjs").write_text(snippet)
    (project / "play.mjs").write_text(_PLAY)
    (tmp_path / "vault").mkdir()
    said = said_after_login(project / "play.mjs", tmp_path / "vault", "conversation-1")
    assert said == (0, "the brand's API answered 200\n")
