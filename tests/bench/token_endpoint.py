"""A token endpoint that costs next to nothing: `python -m tests.bench.token_endpoint TOKEN_BYTES`.

POST answers a refresh request with new tokens, `TOKEN_BYTES` the access
token's size; a refresh token that was redeemed before is refused. GET answers
the counts.
"""

import asyncio
import json
import secrets
import signal
import sys
from dataclasses import asdict, dataclass
from http.client import HTTPConnection
from typing import cast

import uvloop

_END = b"\r\n\r\n"
_LENGTH = b"content-length:"
_FIELD = b"refresh_token="


@dataclass
class Counts:
    """Refresh tokens redeemed, and those that came again."""

    renewed: int = 0
    replayed: int = 0


def counts(address: str) -> Counts:
    """What the endpoint at this address has counted so far."""
    connection = HTTPConnection(address, timeout=10.0)
    try:
        connection.request("GET", "/")
        return Counts(**json.loads(connection.getresponse().read()))
    finally:
        connection.close()


class TokenEndpoint:
    """Redeems each refresh token once."""

    def __init__(self, token_bytes: int) -> None:
        self._access_token = secrets.token_urlsafe(token_bytes)[:token_bytes]
        self._redeemed: set[bytes] = set()
        self._counts = Counts()

    def answer(self, method: bytes, body: bytes) -> bytes:
        """The whole HTTP answer."""
        if method == b"GET":
            return _http(b"200 OK", asdict(self._counts))
        refresh_token = body.partition(_FIELD)[2].partition(b"&")[0]
        if not refresh_token or refresh_token in self._redeemed:
            self._counts.replayed += 1
            return _http(b"400 Bad Request", {"error": "invalid_grant"})
        self._redeemed.add(refresh_token)
        self._counts.renewed += 1
        return _http(
            b"200 OK",
            {
                "access_token": self._access_token,
                "token_type": "Bearer",
                "expires_in": 3600,
                "refresh_token": secrets.token_urlsafe(32),
            },
        )


class _Connection(asyncio.Protocol):
    """One request after the other, kept alive."""

    def __init__(self, endpoint: TokenEndpoint) -> None:
        self._endpoint = endpoint
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's derives from none of these

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(_END)) >= 0:
            head, start = self._received[:end].lower(), end + len(_END)
            length = int(head.partition(_LENGTH)[2].partition(b"\r\n")[0] or 0)
            if len(self._received) < start + length:
                return
            method = self._received[: self._received.index(b" ")]
            body = self._received[start : start + length]
            self._received = self._received[start + length :]
            self._transport.write(self._endpoint.answer(method, body))


def _http(status: bytes, document: object) -> bytes:
    body = json.dumps(document).encode()
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d" % (status, len(body))
    return head + _END + body


async def serve(token_bytes: int) -> None:
    """Serve until SIGTERM."""
    endpoint, loop = TokenEndpoint(token_bytes), asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(endpoint), "127.0.0.1", 0)
    print(f"ready: listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
