"""Probes of a running sidecar: ready, and each thing that keeps it from being so, with its reason."""

import asyncio
import dataclasses
import resource
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pysqlite3
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from starlette.routing import Router

from tests.access.steering import authority, channel, replace, says
from tests.authserver.scripted import Reply, ScriptedServer, Seen
from tests.e2e.scripted import consent, issuing, scripted_brand, token_path
from tests.e2e.vaults import BOT, connect, eventually, make_vault, running
from tests.ops.ports import Said, free_port, get
from tests.running import COMMAND, SidecarProcess
from tokenvault_sidecar.http_server import HttpServer
from tokenvault_sidecar.ops.server import BOUNDS

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


@pytest.fixture
def config(server: ScriptedServer, tmp_path: Path) -> Path:
    return make_vault(tmp_path / "vault", {"acme": scripted_brand(server, "acme")})


def change(config: Path, old: str, new: str) -> None:
    text = config.read_text()
    assert old in text
    replace(config, text.replace(old, new))


async def health(sidecar: SidecarProcess) -> int:
    """What gRPC's health says."""
    async with channel(sidecar, BOT) as raw:
        return int((await HealthStub(raw).Check(HealthCheckRequest(), timeout=30)).status)


async def becomes(sidecar: SidecarProcess, status: int) -> str:
    """Wait until both kinds of probe say so; what the plain one says."""

    async def there() -> str | None:
        said = await get(sidecar, "/readyz")
        return said.text if said.status == status else None

    async def same() -> bool:
        return bool(await health(sidecar) == (SERVING if status == 200 else NOT_SERVING))

    said = await eventually(there)
    await eventually(same)
    assert said is not None
    return said


async def test_who_holds_connections_and_asks_nothing_loses_them() -> None:
    server = HttpServer.listen("127.0.0.1:0", Router([]), dataclasses.replace(BOUNDS, to_ask=1.0))
    server.start()
    host, _, port = server.address.rpartition(":")

    async def status() -> bytes:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        try:
            return (await reader.readline())[9:12]
        finally:
            writer.close()

    with ExitStack() as held:
        for number in range(70):
            idle = held.enter_context(closing(socket.create_connection((host, int(port)))))
            idle.sendall(b"GET / HTTP/1.1\r\n" if number % 2 else b"")
        assert await status() == b"503"

        async def served() -> bool:
            return await status() == b"404"

        await eventually(served)
    await server.stop()


async def test_ready_and_alive_and_nothing_else(config: Path) -> None:
    async with running(config) as sidecar:
        assert await get(sidecar, "/livez") == Said(200, "alive\n")
        assert await get(sidecar, "/readyz") == Said(200, "ready\n")
        assert await health(sidecar) == SERVING
        for path in ("/", "/readyz/", "/livez/x", "/docs", "/metrics/x", "//readyz"):
            assert (await get(sidecar, path)).status == 404, path
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            assert (await get(sidecar, "/readyz", method=method)).status == 405, method


async def test_there_is_no_such_port_where_none_is_configured(config: Path) -> None:
    change(config, 'ops = { listen = "127.0.0.1:0" }\n', "")
    async with running(config) as sidecar:
        assert (await says(sidecar, "ready"))["ops"] is None
        assert await health(sidecar) == SERVING


async def test_the_port_is_taken(config: Path) -> None:
    async with running(config) as sidecar:
        taken = (await says(sidecar, "ready"))["ops"]
        change(config, 'ops = { listen = "127.0.0.1:0" }', f'ops = {{ listen = "{taken}" }}')
        status, said = await _tokenvault("serve", config)
    assert status == 2
    assert f"ops.listen: cannot listen on {taken}: " in said


def _keys_lost(folder: Path) -> None:
    _sql(folder, "DELETE FROM keys WHERE purpose = 'data'")


def _index_key_lost(folder: Path) -> None:
    _sql(folder, "DELETE FROM keys WHERE purpose = 'index'")


def _keys_unreadable(folder: Path) -> None:
    _sql(folder, "ALTER TABLE keys RENAME TO elsewhere")


def _sql(folder: Path, statement: str) -> None:
    with closing(pysqlite3.connect(folder / "tokenvault.db", isolation_level=None)) as connection:
        connection.execute(statement)


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "data key lost": (_keys_lost, "keys: the store has lost data key "),
    "index key lost": (_index_key_lost, "keys: the store has lost its index key"),
    "keys unreadable": (_keys_unreadable, "keys: the store cannot be used"),
}


@pytest.mark.parametrize("name", SPOILT)
async def test_broken_keys(name: str, config: Path) -> None:
    spoil, reason = SPOILT[name]
    async with running(config) as sidecar:
        await becomes(sidecar, 200)
        await asyncio.to_thread(spoil, config.parent)
        said = await becomes(sidecar, 503)
        assert said.startswith(reason)
        line = await says(sidecar, "not_ready")
        assert (line["check"], line["level"]) == ("keys", "error")
        assert f"keys: {line['problem']}" in said
        assert (await get(sidecar, "/livez")).status == 200  # a restart would mend nothing


async def test_a_store_that_cannot_be_written(config: Path) -> None:
    async with running(config) as sidecar:
        await becomes(sidecar, 200)
        unlimited = resource.prlimit(sidecar.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        said = await becomes(sidecar, 503)
        assert said.startswith("store: the store cannot be used, ")
        resource.prlimit(sidecar.pid, resource.RLIMIT_FSIZE, unlimited)
        assert await becomes(sidecar, 200) == "ready\n"
        assert (await says(sidecar, "ready_again"))["was"] == ["store"]


async def test_a_store_that_somebody_holds(config: Path) -> None:
    async with running(config) as sidecar:
        with closing(pysqlite3.connect(config.parent / "tokenvault.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert (await becomes(sidecar, 503)).startswith("store: ")
            other.execute("ROLLBACK")
        await becomes(sidecar, 200)


@pytest.mark.parametrize(
    ("begins_in", "reason"), [(-2, "the server's certificate expired at 20"), (1, "valid from 20")]
)
async def test_a_certificate_at_the_wrong_time(config: Path, begins_in: int, reason: str) -> None:
    folder = config.parent
    good = [(folder / name).read_bytes() for name in ("server.pem", "server.key.pem")]
    begin = datetime.now(UTC) + timedelta(days=begins_in)
    issued = authority(folder).issue(
        name="tokenvault", ips=["127.0.0.1"], lifetime=timedelta(days=1), not_before=begin
    )
    async with running(config) as sidecar:
        assert (await get(sidecar, "/readyz")).status == 200
        _put(folder, issued.certificate_pem, issued.private_key_pem)
        said = await eventually(lambda: _why(sidecar))
        assert said.startswith("certificate: the server's certificate ")
        assert reason in said
        _put(folder, *good)
        await becomes(sidecar, 200)


def _put(folder: Path, certificate: bytes, key: bytes) -> None:
    replace(folder / "server.key.pem", key)
    replace(folder / "server.pem", certificate)


async def _why(sidecar: SidecarProcess) -> str:
    """Why it is not ready; empty where it is."""
    said = await get(sidecar, "/readyz")
    return said.text if said.status == 503 else ""


async def test_it_starts_with_an_expired_certificate_and_says_so(config: Path) -> None:
    """Callers cannot connect; who comes to look finds the reason."""
    begin = datetime.now(UTC) - timedelta(days=2)
    issued = authority(config.parent).issue(name="tokenvault", lifetime=timedelta(days=1), not_before=begin)
    _put(config.parent, issued.certificate_pem, issued.private_key_pem)
    async with running(config) as sidecar:
        said = await get(sidecar, "/readyz")
        assert (said.status, said.text.split(":")[0]) == (503, "certificate")


async def test_a_drain_is_told_before_calls_end(config: Path, server: ScriptedServer) -> None:
    """A redemption holds the drain open; meanwhile the port says why there are no new calls."""
    held = asyncio.Event()

    def hold(seen: Seen) -> Reply:
        return dataclasses.replace(issuing(server)(seen), delay=held)

    server.on(token_path("acme"), hold)
    async with running(config) as sidecar, connect(sidecar) as bot:
        response = consent(server, await bot.start_delegation("acme", conversation="chat-1"))
        completion = asyncio.create_task(bot.complete_delegation(response))
        await server.arrived(token_path("acme"), 1)
        stopping = asyncio.create_task(asyncio.to_thread(sidecar.stop))
        said = await eventually(lambda: _why(sidecar))
        assert said.startswith("sidecar: it is stopping")
        assert (await get(sidecar, "/livez")).status == 200
        assert not completion.done()
        held.set()
        assert (await completion).conversation == "chat-1"
        assert await stopping == 0
        with pytest.raises(OSError, match="refused"):
            await get(sidecar, "/livez")


async def test_the_health_command(config: Path) -> None:
    port = free_port()
    change(config, 'ops = { listen = "127.0.0.1:0" }', f'ops = {{ listen = "127.0.0.1:{port}" }}')
    status, said = await _tokenvault("health", config)
    assert status == 1
    assert said.startswith(f"sidecar: no answer at 127.0.0.1:{port}: ")
    async with running(config) as sidecar:
        assert await _tokenvault("health", config) == (0, "ready")
        await asyncio.to_thread(_keys_unreadable, config.parent)
        await becomes(sidecar, 503)
        status, said = await _tokenvault("health", config)
        assert status == 1
        assert said.startswith("keys: the store cannot be used")
        # A mistake elsewhere in the file leaves the running sidecar as it is.
        change(config, "issuer", "isuer")
        assert (await _tokenvault("health", config))[0] == 1
    replace(config, '[ops]\nlisten = "7480"\nmore = 1\n')
    status, said = await _tokenvault("health", config)
    assert status == 2
    assert f"{config}: ops.listen is no address to listen on" in said
    assert f"{config}: ops.more is not a known key" in said
    replace(config, "")
    assert await _tokenvault("health", config) == (
        2,
        f"{config}: ops: there is no such table, so no port to ask at: add one",
    )


async def _tokenvault(command: str, config: Path) -> tuple[int | None, str]:
    """Exit status, and what it said."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, command, "--config", str(config), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode().rstrip()
