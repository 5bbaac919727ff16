"""A host of its own on this machine, in a network namespace, and the cable to it.

For root, where the kernel lets it: `far_host` raises `NotHere` elsewhere.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class NotHere(Exception):
    """There can be no such host; says why."""


@dataclass(frozen=True, slots=True)
class FarHost:
    """`run` is what commands are run by there."""

    name: str
    address: str
    network: str

    @property
    def run(self) -> tuple[str, ...]:
        return ("nsenter", f"--net=/run/netns/{self.name}")

    def cut(self) -> None:
        """From now on nothing comes through, either way, and nobody is told."""
        self._cable("down")

    def heal(self) -> None:
        self._cable("up")

    def _cable(self, state: str) -> None:
        _ip("-n", self.name, "link", "set", f"{self.name}-b", state)


@contextmanager
def far_host() -> Iterator[FarHost]:
    """While the block lasts. Raises NotHere."""
    if os.geteuid() != 0:
        raise NotHere("only root makes network namespaces")
    number = os.getpid() % (1 << 14)  # a network of four addresses for each process
    here, there, network = (f"10.213.{number >> 6}.{(number & 63) * 4 + last}" for last in (1, 2, 0))
    host = FarHost(f"tv{number}", there, f"{network}/30")
    near, far = f"{host.name}-a", f"{host.name}-b"
    _ip("netns", "add", host.name)
    try:
        _ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", host.name)
        _ip("addr", "add", f"{here}/30", "dev", near)
        _ip("link", "set", near, "up")
        _ip("-n", host.name, "addr", "add", f"{there}/30", "dev", far)
        _ip("-n", host.name, "link", "set", "lo", "up")
        host.heal()
        yield host
    finally:
        _ip("netns", "del", host.name)  # and the cable with it


def _ip(*words: str) -> None:
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NotHere("iproute2 is not installed") from None
    if done.returncode:
        raise NotHere(f"ip {' '.join(words)}: {done.stderr.strip()}")
