"""The `tokenvault` command beside a running sidecar."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.vaults import PATIENCE
from tests.running import COMMAND


async def tokenvault(*arguments: str | Path, prefix: Sequence[str] = ()) -> tuple[int, str, str]:
    """Run it as a process of its own, with nobody to be asked: exit status, output, complaints."""
    process = await asyncio.create_subprocess_exec(
        *prefix,
        *COMMAND,
        *map(str, arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    return process.returncode or 0, out.decode(), err.decode()
