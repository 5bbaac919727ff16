"""Plays a client's example: a bot that has its consumer log in, and then asks the brand's API."""

import asyncio
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.authserver.consumer import Consumer
from tests.clients.stage import Stage
from tokenvault import TokenVaultClient

REPOSITORY = Path(__file__).parents[2]

_API = "http://127.0.0.1:9400/me"  # of `make run`
_ASKS = "please log in: "
_PROXIES = {name: os.environ.get(name, "") for name in ("https_proxy", "grpc_proxy")}
"""This machine's, in the place of the one that leads nowhere."""
ANSWERED = "the brand's API answered 200\n"


def played(command: Sequence[str], there: Stage, *, cwd: Path | None = None, **environment: str) -> str:
    """All it says once its consumer has logged in. Its end must be a good one."""
    variables = there.environment("bot")
    with subprocess.Popen(
        command,
        cwd=cwd,
        env=os.environ | variables | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as bot:
        assert bot.stdout is not None
        before, asks, link = [], "", ""
        while (
            not asks
        ):  # before it is what tools say that make the program, with control characters of theirs
            line = bot.stdout.readline()
            before.append(line)
            assert line, "".join(before)
            _, asks, link = line.partition(_ASKS)
        query = asyncio.run(Consumer().authorize(link.strip()))
        with TokenVaultClient(
            variables["TOKENVAULT_ADDRESS"],
            ca=variables["TOKENVAULT_CA"],
            certificate=variables["TOKENVAULT_CERT"],
            private_key=variables["TOKENVAULT_KEY"],
        ) as vault:
            vault.complete_delegation(query)
        said, _ = bot.communicate(timeout=60)
    assert bot.returncode == 0, said
    return said


def tried(client: Path, folder: Path, there: Stage, **environment: str) -> str:
    """As `played`: what the client's README says under "Try it", word for word, from an empty folder."""
    (block,) = re.findall(
        r"## Try it\n.*?```sh\n(.*?)```", (client / "README.md").read_text(), flags=re.DOTALL
    )
    assert _API in block
    folder.mkdir()
    return played(
        ["sh", "-ec", block.replace(_API, there.api.url)],
        there,
        cwd=folder,
        REPOSITORY=str(REPOSITORY),
        **_PROXIES,  # what it is made of may have to be fetched
        **environment,
    )
