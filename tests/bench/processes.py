"""The processes a measurement is about, seen from outside."""

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.load import Round, Seen

_STOPPING = 30.0


class Failed(Exception):
    """A process of the measurement did not do what it should; it says on stderr why."""


@dataclass(frozen=True)
class Server:
    """A server process that is ready."""

    pid: int
    address: str

    def cpu(self) -> float:
        """Seconds of CPU that it and its workers have used so far, user and system, in all their threads."""
        workers = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return sum(map(_cpu, (self.pid, *map(int, workers))))


@contextmanager
def server(*command: str) -> Iterator[Server]:
    """A server, once it has said that it is ready; stopped at the end."""
    with _process(*command) as process:
        said = _line(process)
        if not said.startswith("ready: listening on "):
            raise Failed(f"{command[0]} said {said!r}")
        yield Server(process.pid, said.split()[-1])


@dataclass(frozen=True)
class LoadProcess:
    """The load generator."""

    _process: subprocess.Popen[str]

    def cpu(self) -> float:
        """As a server's."""
        return _cpu(self._process.pid)

    def run(self, wanted: Round) -> Seen:
        """One round, at its end."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(wanted)) + "\n")
        self._process.stdin.flush()
        return Seen(**json.loads(_line(self._process)))


@contextmanager
def load(folder: Path, grants: int) -> Iterator[LoadProcess]:
    """The load generator, once it is ready."""
    with _process("tests.bench.load", str(folder), str(grants)) as process:
        _line(process)
        yield LoadProcess(process)


@contextmanager
def _process(*command: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "GRPC_VERBOSITY": "ERROR"},  # it tells of every connection's end
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=_STOPPING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _cpu(pid: int) -> float:
    clock = ctypes.c_int()
    if error := ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock)):
        raise OSError(error, "clock_getcpuclockid")
    return time.clock_gettime(clock.value)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise Failed(f"{process.args!r} ended")
    return line.rstrip("\n")
