"""The Node client's example, from the link to the brand's API."""

import asyncio
import os
import subprocess
from pathlib import Path

from tests.authserver.consumer import Consumer
from tests.authserver.node import ensure_installed
from tests.clients.stage import BRAND, stage
from tokenvault import TokenVaultClient

HOME = Path("client/node")


def test_the_bot_waits_for_consent_and_calls_the_api(tmp_path: Path) -> None:
    node = ensure_installed(HOME)
    with stage(tmp_path, access_token_ttl=600) as there:
        variables = there.environment("bot")
        command = [node.executable, str(HOME / "examples/bot.mjs"), BRAND, "conversation-1", there.api.url]
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
    assert (bot.returncode, said) == (0, "the brand's API answered 200\n")
