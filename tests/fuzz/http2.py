"""An HTTP/2 client (RFC 9113) that says whatever it is told to, well-formed or not."""

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from tests.api.running import DEADLINE
from tokenvault_sidecar.devkit import DevelopmentCA, Issued

Headers = Sequence[tuple[bytes, bytes]]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM, END_HEADERS, ACK = 1, 4, 1


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame (section 4.1)."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def message(data: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    """A gRPC message as it goes over HTTP/2: whether it is compressed, its length, itself."""
    return bytes([flag]) + (len(data) if length is None else length).to_bytes(4) + data


def call_headers(method: str, *, timeout: bytes | None = b"20S") -> list[tuple[bytes, bytes]]:
    """What a gRPC call begins with."""
    limit = [] if timeout is None else [(b"grpc-timeout", timeout)]
    return [
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":path", method.encode()),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *limit,
    ]


def tls_context(
    ca: DevelopmentCA, client: Issued | None, folder: Path, *, alpn: Sequence[str] = ("h2",)
) -> ssl.SSLContext:
    """TLS with this client certificate, None for none; it passes through a file in the folder."""
    context = ssl.create_default_context(cadata=ca.certificate_pem.decode())
    if client is not None:
        file = folder / "client.pem"
        file.touch(mode=0o600)
        file.write_bytes(client.certificate_pem + client.private_key_pem)
        context.load_cert_chain(file)
        file.unlink()
    context.set_alpn_protocols(list(alpn))
    return context


@dataclass(frozen=True)
class Answer:
    """What a call ended with. `grpc_status` None: with no answer of gRPC's; `ended_by` says with what."""

    grpc_status: int | None = None
    message: str = ""
    http_status: int | None = None
    ended_by: str = "trailers"


class Http2:
    """One connection. Raises ConnectionError where the other side has hung up."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.alive = True
        settings = h2.config.H2Configuration(
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
        )
        self.h2 = h2.connection.H2Connection(settings)
        # As they are: hpack takes a minute to compress a header of a megabyte.
        self.h2.encoder.encode = partial(self.h2.encoder.encode, huffman=False)  # type: ignore[method-assign]

    @classmethod
    async def connect(cls, address: str, context: ssl.SSLContext) -> Self:
        """Shake hands, and say hello."""
        host, _, port = address.rpartition(":")
        async with asyncio.timeout(DEADLINE):
            connection = cls(
                *await asyncio.open_connection(host, int(port), ssl=context, server_hostname="localhost")
            )
        connection.h2.initiate_connection()
        await connection.flush()
        return connection

    async def settled(self) -> None:
        """Until the other side has said how much it takes, and we have acknowledged it."""
        async with asyncio.timeout(DEADLINE):
            while self.h2.outbound_flow_control_window <= 65535:
                self.h2.receive_data(await self.reader.read(65536))
        await self.flush()

    async def flush(self, more: bytes = b"") -> None:
        """Send what there is to send, then these bytes."""
        self.writer.write(self.h2.data_to_send() + more)
        await self.writer.drain()

    async def call(self, headers: Headers, body: bytes, *, end: str = "stream") -> Answer:
        """One call, and what it ends with; `end` is by ending the "stream", by "reset", or not at all."""
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, headers, end_stream=end == "stream" and not body)
        for start in range(0, len(body), 16384):
            part = body[start : start + 16384]
            self.h2.send_data(stream, part, end_stream=end == "stream" and start + 16384 >= len(body))
        if end == "reset":
            self.h2.reset_stream(stream)
        await self.flush()
        if end == "reset":
            return Answer(ended_by="us")
        async with asyncio.timeout(DEADLINE):
            return await self._answer(stream)

    async def _answer(self, stream: int) -> Answer:
        http_status = None
        while True:
            received = await self.reader.read(65536)
            if not received:
                self.alive = False
                return Answer(http_status=http_status, ended_by="hanging up")
            for event in self.h2.receive_data(received):
                match event:
                    case h2.events.ConnectionTerminated():
                        self.alive = False
                        return Answer(http_status=http_status, ended_by=f"goaway {event.error_code}")
                    case (
                        h2.events.ResponseReceived(stream_id=of, headers=found)
                        | h2.events.TrailersReceived(stream_id=of, headers=found)
                    ) if of == stream and found:
                        told = dict(found)
                        if b":status" in told:
                            http_status = int(told[b":status"])
                        if b"grpc-status" in told:
                            text = told.get(b"grpc-message", b"").decode(errors="replace")
                            return Answer(int(told[b"grpc-status"]), text, http_status)
                    case h2.events.StreamReset(stream_id=of) if of == stream:
                        return Answer(http_status=http_status, ended_by=f"reset {event.error_code}")
                    case h2.events.StreamEnded(stream_id=of) if of == stream:
                        return Answer(http_status=http_status, ended_by="its end")
                    case h2.events.DataReceived(stream_id=of) if of == stream:
                        with suppress(h2.exceptions.StreamClosedError):
                            self.h2.reset_stream(stream)  # it may go on without end
                        await self.flush()
                        return Answer(0, "", http_status, "its first message")
            await self.flush()

    def close(self) -> None:
        """Without a goodbye."""
        self.writer.transport.abort()
