"""Addresses of TCP: held for several processes that are to listen on them, or found to be another's."""

import errno
import socket
from dataclasses import dataclass
from typing import Final

IN_USE: Final = "in use already, or not an address of this machine"
"""What is likely where an address cannot be listened on."""

_MAX_PORT: Final = 65535
_NOT_HERE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class CannotListen(Exception):
    """An address cannot be listened on; says which, and why."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one of several workers has of what is all of theirs.

    Its number, from 1; the addresses that they listen on, and the socket that
    consumers come back to, where there is one.
    """

    worker: int
    listen: tuple[str, ...]
    callback: socket.socket | None = None


class HeldPort:
    """A port of this machine that is bound to, not listened on: workers are, by SO_REUSEPORT.

    While it is held, nobody else can listen there: no other sidecar, by
    SO_REUSEPORT or not, and no process of another user. Linux only.
    """

    def __init__(self, address: str) -> None:
        """Take "host:port", port 0 for any free one. Raises CannotListen."""
        host, port = split_address(address)
        self._sockets: list[socket.socket] = []
        try:
            # A name may have several addresses: they have one port.
            for family, kind, protocol, _, place in socket.getaddrinfo(
                host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            ):
                self._take(socket.socket(family, kind, protocol), (place[0], port, *place[2:]))
                port = self._sockets[0].getsockname()[1] if self._sockets else port
            if not self._sockets:
                raise OSError
        except OSError:
            self.close()
            raise CannotListen(f"cannot listen on {address}: {IN_USE}") from None
        self.address: Final = f"{host}:{port}"

    def close(self) -> None:
        """Let it go. Workers that listen go on."""
        for held in self._sockets:
            held.close()

    def _take(self, held: socket.socket, place: tuple[str | int, ...]) -> None:
        try:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # old connections may linger
            held.bind(place)
            # Only from now on: it could have been bound beside another sidecar's.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        except OSError as error:
            held.close()
            if error.errno not in _NOT_HERE:
                raise
        else:
            self._sockets.append(held)


def not_listening(key: str, address: str, error: OSError) -> CannotListen:
    """Why not on this address, which this key of the configuration names."""
    return CannotListen(f"{key}: cannot listen on {address}: {error.strerror}")


def listen(address: str) -> socket.socket:
    """Listening on "host:port", port 0 for any free one. Raises OSError."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, int(port)), family=family)


def split_address(address: str) -> tuple[str, int]:
    """Host, in brackets where it was, and port. Raises CannotListen."""
    host, _, port = address.rpartition(":")
    # gRPC would take the port modulo 65536.
    if not host or not port.isdecimal() or int(port) > _MAX_PORT:
        raise CannotListen(f"{address} is no address to listen on: write host:port or unix:/path")
    return host, int(port)
