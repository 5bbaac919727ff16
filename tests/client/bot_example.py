"""Plays a client's example: a bot that has its consumer log in, and then asks the brand's API."""

import asyncio
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlencode

from tests.authserver.clients import BASIC, REDIRECT_URI
from tests.authserver.consumer import Consumer
from tests.authserver.oidc import OidcProvider
from tests.running import SidecarProcess, caller_files, make_config


def played(command: Sequence[str], folder: Path) -> int:
    """The status that the API answered the bot."""
    with OidcProvider(registrations=[BASIC]) as provider:
        config = make_config(folder, provider, BASIC, brand="acme")
        with SidecarProcess(config) as sidecar:
            files = caller_files(sidecar.folder, "bot")
            environment = {
                "TOKENVAULT_ADDRESS": sidecar.address,
                "TOKENVAULT_CA": str(files["ca"]),
                "TOKENVAULT_CERT": str(files["certificate"]),
                "TOKENVAULT_KEY": str(files["private_key"]),
            }
            return _dialogue([*command, f"{provider.issuer}/me"], environment)


def _dialogue(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Log in where the program says so."""
    with subprocess.Popen(
        command, env={**os.environ, **environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as bot:
        assert bot.stdout is not None
        link = bot.stdout.readline().removeprefix("Log in here: ").strip()
        arrived = asyncio.run(Consumer().authorize(link, "alice"))
        said, _ = bot.communicate(f"{REDIRECT_URI}?{urlencode(arrived)}\n", timeout=60)
    assert bot.returncode == 0
    return int(said.rpartition(" ")[2])
