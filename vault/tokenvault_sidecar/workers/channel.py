"""What the supervisor and a worker say to each other: one JSON object a line, over a pair of sockets.

| from the supervisor | |
|---|---|
| a Post | first of all, once: what the worker is to be |
| do: stop; after | as SIGTERM, after so many seconds |
| do: reload | as SIGHUP |
| ask: alive, problems, figures; id | to be answered |

| from a worker | |
|---|---|
| serves | once, when it does |
| id, answer | |

When the other's end is closed, the other is gone: nobody outlives it unnoticed.
"""

import asyncio
import json
import socket
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

Message = dict[str, Any]

_LONGEST: Final = 2**24


@dataclass(frozen=True, slots=True)
class Post:
    """What one worker is to be: its number, where it listens, and the configuration's fixed tables.

    `callback` is the descriptor of the socket that consumers come back to.
    """

    number: int
    listen: list[str]
    callback: int | None
    fixed: dict[str, Any]

    def send(self, link: socket.socket) -> None:
        """Before there is a Channel."""
        link.sendall(_line(asdict(self)))

    @classmethod
    def receive(cls, link: socket.socket) -> Self:
        """Wait for it. Raises ValueError where nobody sends one."""
        with link.makefile("rb", buffering=0) as reading:  # no further than its line: more may have come
            said = reading.readline()
        if not said.endswith(b"\n"):
            raise ValueError("there is no supervisor")
        return cls(**json.loads(said))


class Channel:
    """One end, in the running loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, link: socket.socket) -> Self:
        """Takes the socket over."""
        return cls(*await asyncio.open_unix_connection(sock=link, limit=_LONGEST))

    def send(self, message: Message) -> None:
        """It is lost where the other is gone."""
        self._writer.write(_line(message))

    async def receive(self) -> Message | None:
        """The next message; None where the other is gone."""
        try:
            line = await self._reader.readline()
        except ConnectionError:
            return None
        if not line.endswith(b"\n"):
            return None
        message: Message = json.loads(line)
        return message

    def close(self) -> None:
        self._writer.close()


def _line(message: Message) -> bytes:
    return json.dumps(message).encode() + b"\n"
