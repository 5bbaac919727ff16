"""Asking a sidecar's port for probes and metrics, as those who run it do."""

import asyncio
import http.client
import random
import re
import socket
from dataclasses import dataclass

from tests.running import SidecarProcess


@dataclass(frozen=True)
class Said:
    """An answer."""

    status: int
    text: str


def address(sidecar: SidecarProcess) -> str:
    """Where it listens for them, by its log."""
    found = re.findall(r"\"ops\": \"([^\"]+)\"|ops=(\S+:\d+)", sidecar.stderr.read_text())
    return "".join(found[-1])


async def get(sidecar: SidecarProcess, path: str, *, method: str = "GET") -> Said:
    """Ask there. Raises OSError where nothing listens."""
    return await asyncio.to_thread(_get, address(sidecar), path, method)


def free_port() -> int:
    """A port that nobody gets by asking for any free one."""
    while True:
        port = random.randint(15_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _get(place: str, path: str, method: str) -> Said:
    connection = http.client.HTTPConnection(place, timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return Said(answer.status, answer.read().decode())
    finally:
        connection.close()
