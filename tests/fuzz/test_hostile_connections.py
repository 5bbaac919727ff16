"""Whatever comes over the port, other callers go on; what is left of it is nothing."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.authserver.scripted import ScriptedServer
from tests.e2e.scripted import delegate, issuing, scripted_brand, token_path
from tests.e2e.vaults import BOT, OTHER_BOT, PATIENCE, Whose, connect, eventually, make_vault, running
from tests.fuzz import hostile
from tests.fuzz.hostile import Attack, Victim
from tests.fuzz.http2 import Http2, call_headers, message
from tests.running import SidecarProcess, caller_files
from tokenvault import TokenVaultError

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc"),
]

ALICE = Whose(consumer="alice")
MANY = 200
GROWTH = 64 << 20

FROM_OUTSIDE: dict[str, tuple[Attack, int]] = {
    "random bytes": (hostile.random_bytes, MANY),
    "plain HTTP": (hostile.plain_http, MANY),
    "plain HTTP/2": (hostile.plain_http2, MANY),
    "another protocol": (hostile.wrong_protocol, 50),
    "no certificate": (hostile.no_certificate, 50),
}
SILENT: dict[str, tuple[Attack, int]] = {
    "silence": (hostile.silence, MANY),
    "half a handshake": (hostile.half_a_handshake, MANY),
    "slow handshake": (hostile.slow_handshake, 50),
    "silence after the handshake": (hostile.silence_after_the_handshake, 50),
    "settings never acknowledged": (hostile.settings_never_acknowledged, 50),
    "settings over and over": (hostile.SETTINGS_FLOOD, 5),
    **{name: (hostile.after_the_preface(said), 5) for name, said in hostile.BAD_FRAMES.items()},
}
FROM_INSIDE: dict[str, tuple[Attack, int]] = {
    "random bytes after the handshake": (hostile.random_bytes_after_the_handshake, 50),
    "calls reset at once": (hostile.calls_reset_at_once, 2),
    "calls without a request": (hostile.calls_without_a_request, 2),
    "answers never taken": (hostile.answers_never_taken, 2),
    "pings": (hostile.PINGS, 5),
    "headers without end": (hostile.HEADERS_WITHOUT_END, 2),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sidecar(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SidecarProcess]:
    async with ScriptedServer() as server:
        server.on(token_path("acme"), issuing(server))
        config = make_vault(tmp_path_factory.mktemp("vault"), {"acme": scripted_brand(server, "acme")})
        async with running(config) as process:
            async with connect(process) as vault:
                await delegate(vault, server, "acme", ALICE)
            yield process


@dataclass
class Neighbour:
    """A caller that goes on with its work: on its connection, and on a new one each time."""

    sidecar: SidecarProcess
    served: int = 0
    slowest: float = 0.0
    problems: list[str] = field(default_factory=list)

    async def work(self) -> None:
        async with connect(self.sidecar) as vault:
            while True:
                begun = time.monotonic()
                try:
                    await vault.get_token("acme", **ALICE)
                    async with self.channel() as channel:
                        health = await HealthStub(channel).Check(HealthCheckRequest(), timeout=PATIENCE)
                    assert health.status == HealthCheckResponse.SERVING
                except (TokenVaultError, grpc.aio.AioRpcError) as error:
                    self.problems.append(repr(error))
                self.served += 1
                self.slowest = max(self.slowest, time.monotonic() - begun)
                await asyncio.sleep(0.02)

    def channel(self) -> grpc.aio.Channel:
        files = caller_files(self.sidecar.folder, BOT)
        credentials = grpc.ssl_channel_credentials(
            files["ca"].read_bytes(), files["private_key"].read_bytes(), files["certificate"].read_bytes()
        )
        return grpc.aio.secure_channel(
            self.sidecar.address, credentials, [("grpc.use_local_subchannel_pool", 1)]
        )


@asynccontextmanager
async def unimpressed(sidecar: SidecarProcess) -> AsyncIterator[None]:
    """Around an attack: a neighbour is served before, during and after it, and nothing of it stays."""
    neighbour = Neighbour(sidecar)
    working = asyncio.create_task(neighbour.work())

    async def served_more(than: int) -> None:
        async def has() -> bool:
            return neighbour.served > than + 5

        await eventually(has)

    try:
        await served_more(0)
        used, connections = resident(sidecar.pid), sockets(sidecar)
        yield
        during = neighbour.served
        await served_more(during)

        async def gone() -> bool:
            return sockets(sidecar) <= connections

        await eventually(gone)
    finally:
        working.cancel()
        await asyncio.wait([working])

    assert neighbour.problems == []
    assert resident(sidecar.pid) - used < GROWTH


async def attack(sidecar: SidecarProcess, *kinds: tuple[Attack, int]) -> None:
    """All at once, until each is cut off or through."""
    victim = Victim.of(sidecar, OTHER_BOT)
    async with asyncio.timeout(60):
        await asyncio.gather(*(kind(victim) for kind, times in kinds for _ in range(times)))


@pytest.mark.parametrize("name", FROM_OUTSIDE)
async def test_who_has_no_business_here(sidecar: SidecarProcess, name: str) -> None:
    async with unimpressed(sidecar):
        await attack(sidecar, FROM_OUTSIDE[name])


async def test_who_takes_up_connections_is_cut_off(sidecar: SidecarProcess) -> None:
    async with unimpressed(sidecar):
        await attack(sidecar, *SILENT.values())


@pytest.mark.parametrize("name", FROM_INSIDE)
async def test_a_caller_run_wild(sidecar: SidecarProcess, name: str) -> None:
    async with unimpressed(sidecar):
        await attack(sidecar, FROM_INSIDE[name])


@pytest.mark.parametrize(
    ("metadata", "size"), [(b"", 65_000), (b"", 70_000), (b"a" * 17_000, 0), (b"a" * (1 << 20), 0)]
)
async def test_what_is_too_large_is_refused(sidecar: SidecarProcess, metadata: bytes, size: int) -> None:
    victim = Victim.of(sidecar, OTHER_BOT)
    async with unimpressed(sidecar):
        connection = await Http2.connect(victim.address, victim.tls)
        await connection.settled()
        headers = [*call_headers(hostile.GET_TOKEN), (b"authorization", metadata)]
        answer = await connection.call(headers, message(b"\0" * size))
        connection.close()
    expected = grpc.StatusCode.INVALID_ARGUMENT if size == 65_000 else grpc.StatusCode.RESOURCE_EXHAUSTED
    assert answer.grpc_status == expected.value[0]


async def test_metadata_is_not_logged(sidecar: SidecarProcess) -> None:
    victim = Victim.of(sidecar, OTHER_BOT)
    connection = await Http2.connect(victim.address, victim.tls)
    headers = [
        *call_headers(hostile.GET_TOKEN),
        (b"authorization", b"Bearer canary\xff"),
        (b"x", b"canary\xff"),
    ]
    answer = await connection.call(headers, message(hostile.REQUEST))
    connection.close()
    assert answer.grpc_status == 0
    assert "canary" not in sidecar.stderr.read_text() + sidecar.stdout.read_text()


def resident(pid: int) -> int:
    """Bytes of memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def sockets(sidecar: SidecarProcess) -> int:
    """Those that the sidecar has of its port: each one a file it holds open."""
    port = f":{int(sidecar.address.rpartition(':')[2]):04X}"
    tables = (Path(f"/proc/net/{family}").read_text().splitlines()[1:] for family in ("tcp", "tcp6"))
    rows = [line.split() for table in tables for line in table]
    held = sum(row[1].endswith(port) and row[9] != "0" for row in rows)
    assert held > 1, "it listens, and its neighbour is connected"
    return held
