"""The port under strangers: nobody holds it for long, and nothing they send comes back."""

import asyncio
import os
import ssl
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.callback.listening import PATH, Listening, listening, parsed
from tests.core.world import World
from tokenvault_sidecar.api.callback import BOUNDS, Callback
from tokenvault_sidecar.api.pages import Look
from tokenvault_sidecar.core.policy import Policy
from tokenvault_sidecar.devkit import DevelopmentCA
from tokenvault_sidecar.http_server import HttpServer

REQUESTS = int(os.environ.get("TOKENVAULT_FUZZ_REQUESTS", "400"))
MARK = "zq7x"
"""Is in all that is sent at random, and must be in nothing that comes back."""

NAMES = ("state", "code", "iss", "error", "error_description", "session_state", MARK)
TEXT = st.text(max_size=60) | st.sampled_from(
    ["%", "%00", "%zz", "\x00", "\r\nset-cookie: a=b", "<script>", "+", "&", "=", ";", "\ud800"]
)


async def test_who_asks_for_nothing_is_cut_off() -> None:
    unfinished = (b"", b"GET /callback/acme HTTP/1.1\r\nhost: x\r\n", b"POST /callback/acme HTTP")
    async with listening() as port:
        begun = time.monotonic()
        await asyncio.gather(*(port.raw(sent) for sent in unfinished * 20))
        assert 4.0 < time.monotonic() - begun < 20.0


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    head = b"POST /callback/acme HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n"
    head += b"content-type: application/x-www-form-urlencoded\r\nconnection: close\r\n\r\nstate="
    async with listening() as port:
        answers = await asyncio.gather(*(port.raw(head) for _ in range(50)))
        assert {answer[:12] for answer in answers} == {b"HTTP/1.1 404"}


async def test_silent_connections_keep_no_consumer_out() -> None:
    async with listening() as port:
        silent = [asyncio.create_task(port.raw(b"G")) for _ in range(300)]
        await asyncio.sleep(0.2)
        assert (await port.get(await port.came_back())).status == 200
        assert not any(connection.done() for connection in silent)
        for connection in silent:
            connection.cancel()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_is_too_long_is_refused(method: str) -> None:
    async with listening() as port:
        mega = b"a" * (1 << 20)
        if method == "GET":
            raw = await port.raw(b"GET /callback/acme?state=" + mega + b" HTTP/1.1\r\nhost: x\r\n\r\n")
        else:
            head = b"POST /callback/acme HTTP/1.1\r\nhost: x\r\ncontent-length: 1048582\r\n"
            head += b"content-type: application/x-www-form-urlencoded\r\nconnection: close\r\n\r\nstate="
            raw = await port.raw(head + mega)
        assert not raw or parsed(raw).status in (400, 404, 431)
        assert b"aaaa" not in raw
        assert (await port.get(await port.came_back())).status == 200


async def test_https_by_itself_and_a_new_certificate(tmp_path: Path) -> None:
    ca = DevelopmentCA.create("test CA")
    files = tmp_path / "callback.pem", tmp_path / "callback.key.pem"

    def issue(name: str) -> None:
        issued = ca.issue(name=name, dns=[name], ips=["127.0.0.1"])
        files[0].write_bytes(issued.certificate_pem)
        files[1].write_bytes(issued.private_key_pem)

    issue("one.test")
    world = World()
    callback = Callback(world.delegations, lambda: Policy([]), {"acme": Look("Acme")})
    server = HttpServer.listen("127.0.0.1:0", callback.app(PATH, https=True), BOUNDS, tls=files)
    server.start()
    port = Listening(world, callback, server)
    trusting = ssl.create_default_context(cadata=ca.certificate_pem.decode())
    request = b"GET /callback/acme HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    try:
        answer = parsed(await port.raw(request, context=trusting))
        assert answer.status == 404
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        issue("two.test")
        server.reload_certificate()
        host, _, number = server.address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(number), ssl=trusting)
        shown = writer.get_extra_info("peercert")["subjectAltName"]
        writer.close()
        assert ("DNS", "two.test") in shown
    finally:
        await server.stop()


@pytest.mark.timeout(120 + REQUESTS // 20)
def test_whatever_is_sent_nobody_is_asked_and_nothing_comes_back() -> None:
    """Never a 500, never an outbound call, never a reflected byte."""
    pairs = st.lists(st.tuples(st.sampled_from(NAMES), TEXT.map(lambda text: f"{text}{MARK}")), max_size=8)
    quoted = st.sampled_from(["plain", "percent", "latin"])

    with asyncio.Runner() as runner:
        serving = listening()
        port = runner.run(serving.__aenter__())

        @settings(max_examples=REQUESTS, deadline=None, suppress_health_check=list(HealthCheck))
        @given(
            method=st.sampled_from(["GET", "GET", "GET", "POST", "POST", "HEAD", "PUT", MARK.upper()]),
            path=st.sampled_from(
                ["/callback/acme"] * 6 + [f"/{MARK}", f"/callback/{MARK}", "/callback/acme/../acme"]
            ),
            pairs=pairs,
            quoting=quoted,
            language=TEXT,
        )
        def ask(method: str, path: str, pairs: list[tuple[str, str]], quoting: str, language: str) -> None:
            query = b"&".join(name.encode() + b"=" + quote(value, quoting) for name, value in pairs)
            tongue = (
                (language.encode("utf-8", "replace") + MARK.encode()).replace(b"\r", b"").replace(b"\n", b"")
            )
            head = (
                b"accept-language: " + tongue + b"\r\nhost: " + MARK.encode() + b"\r\nconnection: close\r\n"
            )
            if method == "POST":
                head += b"content-type: application/x-www-form-urlencoded\r\ncontent-length: %d\r\n" % len(
                    query
                )
                raw = f"{method} {path} HTTP/1.1\r\n".encode() + head + b"\r\n" + query
            else:
                raw = f"{method} {path}?".encode() + query + b" HTTP/1.1\r\n" + head + b"\r\n"
            answer = runner.run(port.raw(raw))
            assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 200")), answer[:80]
            assert MARK.encode() not in answer.lower()
            assert port.world.server.requests == []
            assert port.recorded == []

        ask()
        runner.run(serving.__aexit__(None, None, None))


def quote(value: str, how: str) -> bytes:
    raw = value.encode("latin-1" if how == "latin" else "utf-8", "replace")
    if how == "percent":
        return b"".join(b"%%%02X" % byte for byte in raw)
    return raw.replace(b"\r", b"").replace(b"\n", b"").replace(b" ", b"+").replace(b"#", b"")
