"""A driver's process: commands in, answers out. What it is told in secret must not be in what it tells."""

import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

_PATIENCE = 60.0


class DriverFailed(Exception):
    """The driver ended, was silent, or said what is no answer; holds the end of its stderr."""


class Driver:
    """Runs while the `with` block lasts."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = command
        self._environment = environment
        self._unread = b""
        self._asked = ""

    def __enter__(self) -> Self:
        self._stderr = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            env={**os.environ, **self._environment},
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            assert stream is not None
            stream.close()

    def ask(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one command. Raises DriverFailed."""
        self.tell(command)
        return self.answer()

    def tell(self, command: Mapping[str, Any]) -> None:
        """Give a command whose answer is had later. Raises DriverFailed."""
        assert self._process.stdin is not None
        self._asked = command["op"]
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
        except OSError as problem:
            raise self._failed(f"{type(problem).__name__} at {self._asked}") from None

    def answer(self) -> dict[str, Any]:
        """The answer to the last command. Raises DriverFailed."""
        try:
            answer = json.loads(self._line(time.monotonic() + _PATIENCE))
        except (OSError, ValueError) as problem:
            raise self._failed(f"{type(problem).__name__} at {self._asked}") from None
        if not isinstance(answer, dict) or set(answer) not in ({"ok"}, {"error"}):
            raise self._failed(f"no answer to {self._asked}: neither ok nor error alone")
        return answer

    def finish(self) -> None:
        """Close its stdin and wait for its end. Raises DriverFailed where that is none of its own, with 0."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            status = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            raise self._failed("did not end with its stdin") from None
        if status:
            raise self._failed(f"ended with status {status}")

    @property
    def complaints(self) -> str:
        """All of its stderr."""
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace")

    def _line(self, deadline: float) -> bytes:
        assert self._process.stdout is not None
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, left))
            if not ready:
                raise self._failed("is silent")
            chunk = os.read(self._process.stdout.fileno(), 65_536)
            if not chunk:
                raise self._failed("ended")
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _failed(self, what: str) -> DriverFailed:
        return DriverFailed(f"the driver {what}: {self.complaints[-1000:]}")
