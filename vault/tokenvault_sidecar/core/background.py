"""Work that goes on when its caller has gone away."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from tokenvault_sidecar.core.errors import VaultError
from tokenvault_sidecar.core.ports import Events

T = TypeVar("T")


class Background:
    """Tasks of their own: nobody's cancellation reaches them, and the end waits for them."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Start it. Await the task through `asyncio.shield`, or leave it: a defect is noted, not lost."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def drain(self) -> None:
        """Wait until no task is left."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, VaultError):
            self._events("defect", task=task.get_name(), error=type(error).__name__)
