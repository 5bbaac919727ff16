"""Several workers: they serve as one sidecar, and nobody notices when one of them dies."""

import asyncio
import http.client
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from urllib.parse import urlencode

import grpc
import pytest

from tests.access.steering import Configuration, replace, said, says
from tests.authserver.scripted import Reply, ScriptedServer
from tests.e2e.commands import tokenvault
from tests.e2e.scripted import consent, issuing, token_path
from tests.e2e.vaults import BOT, PATIENCE, connect, eventually, running
from tests.ops.ports import Said, get
from tests.ops.test_metrics import scrape, value
from tests.postgres.server import PostgresServer
from tests.running import CannotStart, SidecarProcess
from tests.workers.team import (
    CONNECTIONS,
    PEOPLE,
    Load,
    ended,
    get_token,
    killed,
    make_team,
    pids,
    seed,
    stub,
)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        server.on(token_path("acme"), issuing(server))
        server.on("/acme/revoke", Reply())
        yield server


@pytest.fixture
def config(server: ScriptedServer, tmp_path: Path) -> Path:
    return make_team(tmp_path / "vault", server)


async def calls(sidecar: SidecarProcess) -> float:
    return value(await scrape(sidecar), "calls_total", rpc="GetToken", caller=BOT, reason="OK")


async def test_all_serve_as_one(server: ScriptedServer, tmp_path: Path) -> None:
    """On many connections both are met; what they count is added up, and each keeps its own audit log."""
    config = make_team(tmp_path / "vault", server, audit={"path": "audit.jsonl"})
    await seed(config)
    async with running(config) as sidecar:
        async with AsyncExitStack() as stack:
            vaults = [await stack.enter_async_context(stub(sidecar)) for _ in range(CONNECTIONS)]
            await asyncio.gather(
                *(v.GetToken(get_token(PEOPLE[0]), timeout=PATIENCE) for v in vaults for _ in range(3))
            )
        found = await scrape(sidecar)
        assert value(found, "calls_total", rpc="GetToken", caller=BOT, reason="OK") == 3 * CONNECTIONS
        assert value(found, "call_duration_seconds_count", rpc="GetToken") == 3 * CONNECTIONS
        # What is in the one store is not.
        assert value(found, "grants", brand="acme", kind="consumer") == len(PEOPLE)
        checks = [dict(labels)["check"] for name, labels in found if name == "tokenvault_ready"]
        assert sorted(checks) == ["certificate", "keys", "sidecar", "store", "workers"]
        assert {value(found, "ready", check=check) for check in checks} == {1}
        assert await get(sidecar, "/readyz") == Said(200, "ready\n")
        assert await get(sidecar, "/livez") == Said(200, "alive\n")
        status, _, _ = await tokenvault("audit", "verify", "--config", config)
        assert status == 0
    logs = [config.with_name(f"worker-{number}.audit.jsonl") for number in (1, 2)]
    released = [len(log.read_text().splitlines()) for log in logs]
    assert min(released) > 0
    assert sum(released) == 3 * CONNECTIONS
    status, out, _ = await tokenvault("audit", "verify", "--config", config)
    assert (status, out.count(" is whole: ")) == (0, 2)
    logs[1].unlink()
    status, _, complaint = await tokenvault("audit", "verify", "--config", config)
    assert status == 2
    assert complaint.startswith(str(logs[1]))
    lines = [json.loads(line) for line in sidecar.stderr.read_text().splitlines()]
    assert {line.get("worker") for line in lines if line["event"] == "ready"} == {1, 2, None}


async def test_consumers_come_back_to_any_of_them(server: ScriptedServer, tmp_path: Path) -> None:
    """A link is one worker's, whoever of them completes it, and who watches may be at a third."""
    config = make_team(tmp_path / "vault", server)
    async with running(config) as sidecar:
        place = said(sidecar, "ready")[0]["callback"]
        assert {line.get("callback", place) for line in said(sidecar, "ready")} == {place}
        for number in range(6):
            async with connect(sidecar) as bot, connect(sidecar) as other:
                challenge = await bot.start_delegation("acme", consumer=f"new-{number}")
                back = consent(server, challenge, f"account-{number}")
                assert await asyncio.to_thread(_come_back, place, back) == 200
                assert (await other.get_token("acme", consumer=f"new-{number}")).access_token


async def test_workers_run_as_batch_work_in_all_their_threads(config: Path) -> None:
    await seed(config)
    async with running(config) as sidecar, stub(sidecar) as vault:
        await vault.GetToken(get_token(PEOPLE[0]), timeout=PATIENCE)
        for pid in pids(sidecar).values():
            policies = _policies(pid)
            assert len(policies) > 1
            assert set(policies) == {os.SCHED_BATCH}


def _policies(pid: int) -> list[int]:
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):  # it has ended since
            found.append(os.sched_getscheduler(int(thread.name)))
    return found


def _come_back(place: str, query: dict[str, str]) -> int:
    connection = http.client.HTTPConnection(place, timeout=PATIENCE)
    try:
        connection.request("GET", f"/callback/acme?{urlencode(query)}")
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
async def test_one_killed_under_load_is_replaced_and_counts_go_on(
    store: str, config: Path, request: pytest.FixtureRequest
) -> None:
    if store == "postgres":
        database: PostgresServer = request.getfixturevalue("postgres_server")
        steered = Configuration(config)
        steered.content["store"] = {
            "url": database.url(database.create_database()),
            "password_file": str(database.password_file),
            "sslmode": "disable",
        }
        steered.write()
    await seed(config)
    async with running(config) as sidecar:

        async def ready() -> bool:
            return (await get(sidecar, "/readyz")).status == 200

        async with Load(sidecar) as load:
            await load.more()
            before, first = await calls(sidecar), pids(sidecar)
            await killed(sidecar, 1)
            assert await calls(sidecar) >= before
            await load.more()
            await eventually(ready)
            assert pids(sidecar)[1] != first[1]
            assert pids(sidecar)[2] == first[2]
            await load.more()
            assert await calls(sidecar) > before
        assert set(load.outcomes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        found = await scrape(sidecar)
        assert value(found, "worker_restarts_total") == 1
        assert value(found, "ready", check="workers") == 1


async def test_who_cannot_start_again_is_tried_and_told_of(config: Path) -> None:
    """The others serve meanwhile, and what a restart alone changes stays as it was."""
    await seed(config)
    steered = Configuration(config)
    async with running(config) as sidecar, stub(sidecar) as vault:
        steered.content["store"]["path"] = "another.db"
        kek, right = config.with_name("kek"), config.with_name("kek").read_bytes()
        kek.write_bytes(right.swapcase())
        steered.write()
        await says(sidecar, "reload_refused", 2)
        await killed(sidecar, 2)

        async def told() -> bool:
            answer = await get(sidecar, "/readyz")
            return answer == Said(503, "worker 2: it ended by status 2, and is started again\n")

        await eventually(told)
        assert value(await scrape(sidecar), "ready", check="workers") == 0
        assert (await get(sidecar, "/livez")).status == 200
        kek.write_bytes(right)

        async def ready() -> bool:
            return (await get(sidecar, "/readyz")).status == 200

        await eventually(ready, within=60)
        async with AsyncExitStack() as stack:
            vaults = [await stack.enter_async_context(stub(sidecar)) for _ in range(CONNECTIONS)]
            for each in [vault, *vaults]:
                await each.GetToken(get_token(PEOPLE[0]), timeout=PATIENCE, wait_for_ready=True)
    assert not config.with_name("another.db").exists()


async def test_one_that_hangs_is_told_of(config: Path) -> None:
    async with running(config) as sidecar:
        hung = pids(sidecar)[1]
        os.kill(hung, signal.SIGSTOP)
        try:
            for path in ("/livez", "/readyz"):
                answer = await get(sidecar, path)
                assert answer.status == 503
                assert "worker 1: no answer\n" in answer.text
        finally:
            os.kill(hung, signal.SIGCONT)

        async def alive() -> bool:
            return await get(sidecar, "/livez") == Said(200, "alive\n")

        await eventually(alive)


async def test_a_reload_is_all_workers(config: Path) -> None:
    await seed(config)
    steered = Configuration(config)
    async with running(config) as sidecar:
        del steered.content["callers"][BOT]
        steered.write()
        os.kill(sidecar.pid, signal.SIGHUP)
        await says(sidecar, "reloaded", 2)

        async def both() -> bool:
            return {line["worker"] for line in said(sidecar, "reloaded")} == {1, 2}

        await eventually(both)
        async with AsyncExitStack() as stack:
            for _ in range(CONNECTIONS):
                vault = await stack.enter_async_context(stub(sidecar))
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await vault.GetToken(get_token(PEOPLE[0]), timeout=PATIENCE)
                assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("told", [signal.SIGHUP, signal.SIGTERM])
async def test_one_that_is_only_starting_heeds_what_it_is_told(config: Path, told: signal.Signals) -> None:
    """It is told before it listens: the supervisor hears a signal long before a worker is there."""
    await seed(config)
    sidecar = SidecarProcess(config)
    starting = asyncio.create_task(asyncio.to_thread(sidecar.start))
    try:
        await eventually(lambda: _has_begun(sidecar))
        os.kill(sidecar.pid, told)
        if told is signal.SIGHUP:
            await starting
            assert sidecar.stop() == 0
        else:
            with pytest.raises(CannotStart, match="ended with status 0:"):
                await starting
    finally:
        await asyncio.gather(starting, return_exceptions=True)
        if sidecar.returncode is None:
            sidecar.kill()
    await ended(sidecar)
    assert all(line.startswith("{") for line in sidecar.stderr.read_text().splitlines())
    assert not said(sidecar, "worker_ended")


async def _has_begun(sidecar: SidecarProcess) -> bool:
    return sidecar.stderr.exists() and bool(pids(sidecar))


async def test_none_outlives_its_supervisor(config: Path) -> None:
    """They drain, and the next sidecar takes the port."""
    await seed(config)
    async with running(config) as sidecar:
        steered = Configuration(config)
        steered.content["server"]["listen"] = [sidecar.address]
        sidecar.kill()
        await ended(sidecar)
    assert said(sidecar, "stopped")
    steered.write()
    async with running(config) as again, stub(again) as vault:
        assert again.address == sidecar.address
        await vault.GetToken(get_token(PEOPLE[0]), timeout=PATIENCE)


async def test_workers_that_are_told_too_end_as_one(config: Path) -> None:
    """A service manager may tell all processes of a service at once."""
    await seed(config)
    async with running(config) as sidecar, Load(sidecar) as load:
        await load.more()
        for pid in (*pids(sidecar).values(), sidecar.pid):
            os.kill(pid, signal.SIGTERM)
        assert await asyncio.to_thread(sidecar.wait) == 0
        await ended(sidecar)
    assert set(load.outcomes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert len(said(sidecar, "stopped")) == 2


async def test_a_port_is_not_shared_with_another_sidecar(
    config: Path, server: ScriptedServer, tmp_path: Path
) -> None:
    async with running(config) as sidecar:
        for workers in (1, 2):
            theirs: Mapping[str, object] = {"workers": workers, "listen": [sidecar.address]}
            other = SidecarProcess(make_team(tmp_path / f"with-{workers}", server, server=theirs))
            refused = f"ended with status 2:(.|\n)*cannot listen on {sidecar.address}: in use already"
            with pytest.raises(CannotStart, match=refused):
                await asyncio.to_thread(other.start)


async def test_a_port_that_another_process_has_is_said_once(server: ScriptedServer, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for table in ("server", "ops", "callback"):
            keys: Mapping[str, object] = {"listen": [address] if table == "server" else address}
            config = make_team(tmp_path / table, server, **{table: keys})
            sidecar = SidecarProcess(config)
            with pytest.raises(CannotStart, match="ended with status 2"):
                await asyncio.to_thread(sidecar.start)
            complaint = sidecar.stderr.read_text()
            assert complaint.count("cannot start: ") == 1
            assert f"cannot listen on {address}: " in complaint.splitlines()[-1]
            assert pids(sidecar) == {}


async def test_what_keeps_one_from_starting_is_said_once(config: Path) -> None:
    await seed(config)
    kek = config.with_name("kek")
    replace(kek, kek.read_bytes().swapcase())
    sidecar = SidecarProcess(config)
    with pytest.raises(CannotStart, match="ended with status 2"):
        await asyncio.to_thread(sidecar.start)
    lines = sidecar.stderr.read_text().splitlines()
    assert [line for line in lines if "cannot start" in line] == lines[-1:]
    await ended(sidecar)


async def test_a_unix_socket_cannot_be_shared(config: Path) -> None:
    steered = Configuration(config)
    steered.content["server"]["listen"] = ["127.0.0.1:0", "unix:vault.sock"]
    steered.write()
    status, _, complaint = await tokenvault("serve", "--config", config)
    assert status == 2
    assert "server.listen[1] is a unix socket, which several workers cannot share" in complaint


async def test_a_second_signal_ends_all_at_once(server: ScriptedServer, tmp_path: Path) -> None:
    config = make_team(tmp_path / "vault", server, server={"drain_timeout": "10m"})
    await seed(config)
    held = asyncio.Event()
    server.on(token_path("acme"), Reply(delay=held))
    async with running(config) as sidecar, stub(sidecar) as vault:
        version = (await vault.GetToken(get_token(PEOPLE[0]), timeout=PATIENCE)).token_version
        call = vault.GetToken(get_token(PEOPLE[0], rejected_token_version=version), timeout=PATIENCE)
        await server.arrived(token_path("acme"), within=PATIENCE)
        os.kill(sidecar.pid, signal.SIGTERM)
        await says(sidecar, "stopping", 2)
        assert sidecar.returncode is None
        assert (await get(sidecar, "/readyz")).text.startswith("sidecar: it is stopping")
        assert await asyncio.to_thread(sidecar.stop, signal.SIGINT) == -signal.SIGINT
        await ended(sidecar)
        held.set()
        with pytest.raises(grpc.aio.AioRpcError):
            await call


async def test_a_second_signal_that_comes_at_once_ends_all_too(
    server: ScriptedServer, tmp_path: Path
) -> None:
    """Workers stop one after another: those whose turn has not come are not left behind to drain."""
    config = make_team(tmp_path / "vault", server, server={"drain_timeout": "10m"})
    await seed(config)
    held = asyncio.Event()
    server.on(token_path("acme"), Reply(delay=held))
    async with running(config) as sidecar, AsyncExitStack() as stack:
        vaults = [await stack.enter_async_context(stub(sidecar)) for _ in PEOPLE]
        calls = []
        for vault, name in zip(vaults, PEOPLE, strict=True):
            version = (await vault.GetToken(get_token(name), timeout=PATIENCE)).token_version
            calls.append(vault.GetToken(get_token(name, rejected_token_version=version), timeout=PATIENCE))
        await server.arrived(token_path("acme"), len(PEOPLE), within=PATIENCE)
        os.kill(sidecar.pid, signal.SIGTERM)
        await says(sidecar, "stopping")
        assert await asyncio.to_thread(sidecar.stop, signal.SIGINT) == -signal.SIGINT
        await ended(sidecar)
        held.set()
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError):
                await call
    assert not said(sidecar, "stopped")


async def test_the_command_for_workers_is_the_supervisors(config: Path) -> None:
    status, _, complaint = await tokenvault("worker", "--config", config, "0")
    assert status == 2
    assert "tokenvault serve" in complaint
    status, out, _ = await tokenvault("--help")
    assert "worker" not in out
