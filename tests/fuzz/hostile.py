"""Connections that mean no good: each function is one of them, until it is cut off or through."""

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Self

from tests.fuzz.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Http2,
    call_headers,
    frame,
    message,
)
from tests.running import SidecarProcess, caller_files
from tokenvault.v1 import token_vault_pb2 as pb

GET_TOKEN: Final = "/tokenvault.v1.TokenVault/GetToken"
CUT_OFF: Final = (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError)
"""What an attacker may see of it."""


@dataclass(frozen=True)
class Victim:
    """Where to connect to, and TLS: with a certificate that is let in, without one, for another protocol."""

    address: str
    tls: ssl.SSLContext
    without_certificate: ssl.SSLContext
    http1: ssl.SSLContext

    @classmethod
    def of(cls, sidecar: SidecarProcess, caller: str) -> Self:
        """With this caller's certificate."""
        files = caller_files(sidecar.folder, caller)

        def context(*protocols: str, certificate: bool = True) -> ssl.SSLContext:
            tls = ssl.create_default_context(cafile=files["ca"])
            if certificate:
                tls.load_cert_chain(files["certificate"], files["private_key"])
            tls.set_alpn_protocols(protocols)
            return tls

        return cls(sidecar.address, context("h2"), context("h2", certificate=False), context("http/1.1"))

    async def connect(self, tls: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, _, port = self.address.rpartition(":")
        name = "localhost" if tls else None
        return await asyncio.open_connection(host, int(port), ssl=tls, server_hostname=name)


Attack = Callable[[Victim], Awaitable[None]]


async def _say(victim: Victim, tls: ssl.SSLContext | None, *parts: bytes, pause: float = 0.0) -> None:
    """Say this, and wait for the other side to hang up."""
    writer = None
    with suppress(*CUT_OFF):
        reader, writer = await victim.connect(tls)
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
        while await reader.read(65536):
            pass
    if writer is not None:
        writer.transport.abort()


async def random_bytes(victim: Victim) -> None:
    await _say(victim, None, os.urandom(3000))


async def plain_http(victim: Victim) -> None:
    await _say(victim, None, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")


async def plain_http2(victim: Victim) -> None:
    await _say(victim, None, PREFACE + frame(SETTINGS, 0, 0))


async def silence(victim: Victim) -> None:
    await _say(victim, None)


async def half_a_handshake(victim: Victim) -> None:
    await _say(victim, None, _client_hello())


async def slow_handshake(victim: Victim) -> None:
    """A byte at a time; it would take a minute."""
    hello = _client_hello()
    await _say(victim, None, *(hello[i : i + 1] for i in range(len(hello))), pause=0.1)


async def no_certificate(victim: Victim) -> None:
    await _say(victim, victim.without_certificate, PREFACE + frame(SETTINGS, 0, 0))


async def wrong_protocol(victim: Victim) -> None:
    await _say(victim, victim.http1, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")


async def silence_after_the_handshake(victim: Victim) -> None:
    await _say(victim, victim.tls)


async def settings_never_acknowledged(victim: Victim) -> None:
    await _say(victim, victim.tls, PREFACE + frame(SETTINGS, 0, 0))


async def random_bytes_after_the_handshake(victim: Victim) -> None:
    await _say(victim, victim.tls, os.urandom(3000))


def after_the_preface(*frames: bytes) -> Attack:
    """An attack that says hello first, as it should."""

    async def attack(victim: Victim) -> None:
        await _say(victim, victim.tls, PREFACE + frame(SETTINGS, 0, 0), *frames)

    return attack


def _client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


BAD_FRAMES: Final = {
    "a frame too large": frame(DATA, 0, 1, bytes(1 << 20)),
    "data of no stream": frame(DATA, 0, 0, b"x"),
    "settings of a stream": frame(SETTINGS, 0, 1, bytes(6)),
    "settings of a wrong size": frame(SETTINGS, 0, 0, bytes(5)),
    "settings out of range": frame(SETTINGS, 0, 0, b"\0\x04\xff\xff\xff\xff"),
    "a window of nothing": frame(WINDOW_UPDATE, 0, 0, bytes(4)),
    "a promise to a server": frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4)),
    "a continuation of nothing": frame(CONTINUATION, END_HEADERS, 1, b"\x82"),
    "headers that are none": frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\xff" * 40),
    "headers of an even stream": frame(HEADERS, END_HEADERS, 2, b"\x82"),
    "a ping of a wrong size": frame(PING, 0, 0, b"x"),
    "a priority of a wrong size": frame(PRIORITY, 0, 1, b"x"),
}
"""What RFC 9113 calls a connection error."""


async def calls_reset_at_once(victim: Victim) -> None:
    """CVE-2023-44487."""
    await _stream_of_calls(victim, 3000, reset=True)


async def calls_without_a_request(victim: Victim) -> None:
    await _stream_of_calls(victim, 1500, body=b"", ended=False)


async def answers_never_taken(victim: Victim) -> None:
    """With a window of nothing: what is answered stays with the server."""
    await _stream_of_calls(victim, 1500, window=0)


async def _stream_of_calls(
    victim: Victim,
    count: int,
    *,
    reset: bool = False,
    body: bytes | None = None,
    ended: bool = True,
    window: int = 65535,
) -> None:
    """Many calls in one go, whose answers nobody reads; then nothing more."""
    with suppress(*CUT_OFF):
        connection = await Http2.connect(victim.address, victim.tls)
        encoder = connection.h2.encoder
        await connection.flush(frame(SETTINGS, 0, 0, b"\0\x04" + window.to_bytes(4)))
        asked = body if body is not None else message(REQUEST)
        for number in range(count):
            stream = 2 * number + 1
            said = frame(HEADERS, END_HEADERS, stream, encoder.encode(call_headers(GET_TOKEN, timeout=b"2S")))
            if asked:
                said += frame(DATA, END_STREAM if ended else 0, stream, asked)
            if reset:
                said += frame(RST_STREAM, 0, stream, (8).to_bytes(4))
            await connection.flush(said)
        with suppress(TimeoutError):
            async with asyncio.timeout(3):
                while await connection.reader.read(65536):
                    pass
        connection.close()


REQUEST: Final = pb.GetTokenRequest(
    brand_id="acme", context=pb.Context(consumer=pb.ConsumerContext(consumer_id="alice"))
).SerializeToString()

PINGS: Final = after_the_preface(*[frame(PING, 0, 0, bytes(8)) * 100] * 100)
SETTINGS_FLOOD: Final = after_the_preface(
    *[frame(SETTINGS, 0, 0, b"\0\x04\0\0\xff\xff") * 100] * 100, frame(GOAWAY, 0, 0, bytes(8))
)
HEADERS_WITHOUT_END: Final = after_the_preface(
    frame(HEADERS, 0, 1, b"\x82"),
    *[frame(CONTINUATION, 0, 1, b"\0\x01x\x7f\x80\x7f" + bytes(16384 - 6))] * 3000,
)
