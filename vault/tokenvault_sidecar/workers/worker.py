"""A worker's end of the channel: it does as the supervisor says, answers it, and does not outlive it."""

import asyncio
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

from tokenvault_sidecar.beginning import Beginning, begin
from tokenvault_sidecar.listening import Share
from tokenvault_sidecar.operations import Operations
from tokenvault_sidecar.ops.sums import to_json
from tokenvault_sidecar.workers.channel import Channel, Message, Post

_ABANDONED: Final = 1


class Worker:
    """One of several processes. Made first; `obey` from when the loop runs, and tell when it `serves`."""

    def __init__(self, file: Path, descriptor: int) -> None:
        """The socket of this descriptor is the supervisor's. Raises ConfigError, ValueError."""
        self._link = socket.socket(fileno=descriptor)
        post = Post.receive(self._link)
        _as_batch_work()
        self.begun: Final[Beginning] = begin(file, worker=post.number, fixed=post.fixed)
        callback = None if post.callback is None else socket.socket(fileno=post.callback)
        self.share: Final = Share(post.number, tuple(post.listen), callback)
        self._channel: Channel | None = None
        self._operations: Operations | None = None
        self._answering: set[asyncio.Task[None]] = set()

    async def obey(self, stopped: asyncio.Event, changed: asyncio.Event) -> None:
        """Set the one when it is to stop, the other when it is to reload; until the process ends.

        A supervisor that is gone stops it; where it was told to stop already, at once.
        """
        loop, told = asyncio.get_running_loop(), False
        self._channel = channel = await Channel.open(self._link)
        if self._operations is not None:
            self.serves(self._operations)
        while message := await channel.receive():
            match message:
                case {"do": "stop", "after": after}:
                    told = True
                    loop.call_later(after, stopped.set)
                case {"do": "reload"}:
                    changed.set()
                case {"ask": _}:
                    answering = loop.create_task(self._answer(channel, message))
                    self._answering.add(answering)
                    answering.add_done_callback(self._answering.discard)
        if told:  # as by a second signal
            os._exit(_ABANDONED)
        stopped.set()

    def serves(self, operations: Operations) -> None:
        """Calls are answered, and of these operations it tells."""
        self._operations = operations
        if self._channel is not None:
            self._channel.send({"serves": True})

    async def _answer(self, channel: Channel, question: Message) -> None:
        answer: object = None
        if question["ask"] == "alive":
            answer = True
        elif self._operations is not None:
            if question["ask"] == "problems":
                answer = dict(await self._operations.problems())
            else:
                answer = to_json(await self._operations.figures(stock=question["stock"]))
        channel.send({"id": question["id"], "answer": answer})


def _as_batch_work() -> None:
    """Have no thread of this process interrupt what runs when it is woken (Linux's SCHED_BATCH).

    A call is handed through several threads of gRPC's. Where workers fill
    their cores, each interruption costs a change of context and what the
    cache held: a tenth of a call. Not where who started us chose otherwise,
    or forbids it.
    """
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):
            if os.sched_getscheduler(0) == os.SCHED_OTHER:
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
