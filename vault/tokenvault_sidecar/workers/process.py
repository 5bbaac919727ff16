"""One worker as its supervisor sees it: a process, asked and told over a channel."""

import asyncio
import itertools
import signal
import socket
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Final, Self, cast

from tokenvault_sidecar.workers.channel import Channel, Post


class WorkerProcess:
    """From its start to its end."""

    def __init__(self, process: asyncio.subprocess.Process, channel: Channel) -> None:
        self._process = process
        self.pid: Final = process.pid
        self._channel = channel
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[object]] = {}
        self.serving: Final = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._hearing = loop.create_task(self._hear(), name="hear")
        self.ended: Final = loop.create_task(self._end(), name="end")

    @classmethod
    async def start(cls, file: Path, post: Post) -> Self:
        """Start it with this configuration file. Raises OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            post.send(ours)
            shared = [theirs.fileno()] + ([] if post.callback is None else [post.callback])
            command = (
                "-P",
                "-m",
                "tokenvault_sidecar",
                "worker",
                "--config",
                str(file),
                str(theirs.fileno()),
            )
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=shared,
                start_new_session=True,  # Ctrl-C is for the supervisor
            )
        return cls(process, await Channel.open(ours))

    async def served(self) -> bool:
        """Wait until it serves; False where it ended before."""
        serving = asyncio.ensure_future(self.serving.wait())
        await asyncio.wait({serving, self.ended}, return_when=asyncio.FIRST_COMPLETED)
        serving.cancel()
        return self.serving.is_set()

    def stop(self, *, after: float) -> None:
        """Have it stop after so many seconds; where we end before that, it ends at once."""
        self._channel.send({"do": "stop", "after": after})

    def reload(self) -> None:
        """Have it read its configuration again."""
        self._channel.send({"do": "reload"})

    def kill(self) -> None:
        """SIGKILL."""
        if not self.ended.done():
            self._process.kill()

    def ask(self, what: str, *, within: float, **more: object) -> Awaitable[Any]:
        """Its answer; None where there is none within so many seconds."""
        question = next(self._ids)
        answer = self._answers[question] = asyncio.get_running_loop().create_future()
        self._channel.send({"ask": what, "id": question, **more})

        async def wait() -> object:
            try:
                await asyncio.wait({answer, self.ended}, timeout=within, return_when=asyncio.FIRST_COMPLETED)
                return answer.result() if answer.done() else None
            finally:
                del self._answers[question]

        return wait()

    async def _hear(self) -> None:
        while message := await self._channel.receive():
            if "serves" in message:
                self.serving.set()
            elif (answer := self._answers.get(cast(int, message["id"]))) and not answer.done():
                answer.set_result(message["answer"])

    async def _end(self) -> int:
        status = await self._process.wait()
        self._hearing.cancel()
        self._channel.close()
        return status


def in_words(status: int) -> str:
    """An exit status, or the name of the signal that ended a process."""
    if status >= 0:
        return f"status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
