"""Processes at work on one store, and what they say."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

PATIENCE = 60.0
"""Seconds to wait for what must come."""


class Helper:
    """A running `tests.adapters.store_process`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process, self._stdin, self._stdout = process, process.stdin, process.stdout

    async def line(self) -> str:
        return (await asyncio.wait_for(self._stdout.readline(), PATIENCE)).decode().strip()

    def send(self, line: str) -> None:
        self._stdin.write(f"{line}\n".encode())

    async def finish(self) -> list[str]:
        """Its remaining output, once it has ended well."""
        out, _ = await asyncio.wait_for(self.process.communicate(), PATIENCE)
        assert self.process.returncode == 0
        return out.decode().splitlines()


@asynccontextmanager
async def helper(task: str, store: str, folder: Path = Path()) -> AsyncIterator[Helper]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.adapters.store_process", task, store, str(folder),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Helper(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def run_helpers(task: str, store: str, folder: Path = Path(), count: int = 2) -> list[list[str]]:
    """What each of them said, started together."""
    async with AsyncExitStack() as stack:
        helpers = [await stack.enter_async_context(helper(task, store, folder)) for _ in range(count)]
        for running in helpers:
            assert await running.line() == "ready"
        for running in helpers:
            running.send("go")
        return await asyncio.gather(*(running.finish() for running in helpers))
