"""What the process owes its secrets: nobody looks into it, what it makes is private, and it needs little."""

import asyncio
import json
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from tests.access.confined import NOBODY, confined, hand_over, open_folder
from tests.access.steering import Configuration, says
from tests.authserver.scripted import Reply, ScriptedServer
from tests.e2e.scripted import delegate, issuing, scripted_brand, token_path
from tests.e2e.vaults import Whose, complaints, connect, make_vault
from tests.running import SidecarProcess

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALICE = Whose(consumer="alice")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        server.on(token_path("acme"), issuing(server))
        server.on("/acme/revoke", Reply())
        yield server


def vault_in(folder: Path, server: ScriptedServer) -> Path:
    """A configuration of which all that is written is in the folder `data`."""
    config = make_vault(folder / "vault", {"acme": scripted_brand(server, "acme")})
    (folder / "data").mkdir(mode=0o755)
    configuration = Configuration(config)
    configuration.content["store"]["path"] = "../data/tokenvault.db"
    configuration.content["audit"] = {"path": "../data/audit.jsonl", "rotate_bytes": 1000}
    configuration.content["server"]["listen"] = ["127.0.0.1:0", f"unix:{folder}/data/vault.sock"]
    configuration.write()
    return config


@asynccontextmanager
async def started(config: Path, *prefix: str) -> AsyncIterator[SidecarProcess]:
    """A sidecar that has done its work once: a delegation, reads, over both of its addresses."""
    sidecar = SidecarProcess(config, prefix=prefix)
    await asyncio.to_thread(sidecar.start)
    try:
        yield sidecar
    finally:
        if sidecar.returncode is None:
            await asyncio.to_thread(sidecar.stop)
    assert complaints(sidecar) == []


async def works(sidecar: SidecarProcess, server: ScriptedServer) -> None:
    async with connect(sidecar) as bot:
        await delegate(bot, server, "acme", ALICE)
        token = await bot.get_token("acme", **ALICE)
        again = await bot.get_token("acme", **ALICE, rejected_token_version=token.token_version)
        assert again.access_token != token.access_token
    async with connect(sidecar, address=sidecar.addresses[1]) as bot:
        assert await bot.get_token("acme", **ALICE) == again
        await bot.invalidate("acme", **ALICE)


async def test_it_leaves_no_core_and_what_it_makes_is_its_users_alone(
    tmp_path: Path, server: ScriptedServer
) -> None:
    # Started as carelessly as can be.
    careless = ("sh", "-c", 'umask 0; ulimit -c unlimited; exec "$@"', "sh")
    async with started(vault_in(tmp_path, server), *careless) as sidecar:
        await works(sidecar, server)
        assert resource.prlimit(sidecar.pid, resource.RLIMIT_CORE) == (0, 0)
        status = of_process(sidecar, "status")
        assert "\nUmask:\t0077\n" in status
        made = {path.name: path.lstat().st_mode for path in (tmp_path / "data").iterdir()}
        assert {"tokenvault.db-wal", "audit.jsonl.head", "audit.jsonl.1"} <= set(made)
        socket_mode = made.pop("vault.sock")
        assert stat.S_ISSOCK(socket_mode)
        assert stat.S_IMODE(socket_mode) == 0o660
        assert {stat.S_IMODE(mode) for mode in made.values()} == {0o600}


PLACES = ("mem", "environ", "maps", "fd")
"""Where, below its folder in /proc, a process shows what it holds."""

LOOK = """
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
pid, seen = int(sys.argv[1]), {}
for name in sys.argv[2:]:
    path = f"/proc/{pid}/{name}"
    try:
        os.listdir(path) if name == "fd" else open(path, "rb").read(0 if name == "mem" else 1)
        seen[name] = True
    except PermissionError:
        seen[name] = False
seen["ptrace"] = libc.ptrace(16, pid, None, None) == 0  # PTRACE_ATTACH
if seen["ptrace"]:
    os.waitpid(pid, 0x40000000)  # __WALL
    libc.ptrace(17, pid, None, None)  # PTRACE_DETACH
print(json.dumps(seen))
"""


def of_process(sidecar: SidecarProcess, name: str) -> str:
    return Path(f"/proc/{sidecar.pid}/{name}").read_text()


def owners(sidecar: SidecarProcess) -> set[int]:
    return {Path(f"/proc/{sidecar.pid}/{name}").stat().st_uid for name in PLACES}


def look(pid: int, prefix: tuple[str, ...]) -> dict[str, bool]:
    """What a process of the same user sees of this one."""
    command = [*prefix, sys.executable, "-c", LOOK, str(pid), *PLACES]
    return dict(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))


def look_at_another(prefix: tuple[str, ...]) -> dict[str, bool]:
    """The same of a process that is not hardened."""
    command = [*prefix, sys.executable, "-c", "print('ready', flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        seen = look(other.pid, prefix)
        other.kill()
    return seen


async def test_not_even_its_own_user_may_look_into_it(server: ScriptedServer) -> None:
    with open_folder() as folder:
        config = vault_in(folder, server)
        prefix: tuple[str, ...] = ()
        if os.geteuid() == 0:  # who may look into everything
            prefix = confined(data=folder / "data", read_only=folder / "vault")
            hand_over(folder)
        async with started(config, *prefix) as sidecar:
            await works(sidecar, server)
            assert owners(sidecar) == {0}
            assert look(sidecar.pid, prefix) == dict.fromkeys((*PLACES, "ptrace"), False)
        seen = await asyncio.to_thread(look_at_another, prefix)
        # That the look is worth something; attaching may be forbidden to all (Yama).
        assert all(seen[name] for name in PLACES)


async def test_it_runs_as_nobody_on_a_read_only_file_system(server: ScriptedServer) -> None:
    with open_folder() as folder:
        config = vault_in(folder, server)
        prefix = confined(data=folder / "data", read_only=folder / "vault")
        hand_over(folder)
        async with started(config, *prefix) as sidecar:
            status = of_process(sidecar, "status")
            assert f"\nUid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}\n" in status
            assert "\nCapEff:\t0000000000000000\n" in status
            await works(sidecar, server)
            os.kill(sidecar.pid, signal.SIGHUP)
            await says(sidecar, "reloaded")
            await works(sidecar, server)
        assert {path.stat().st_uid for path in (folder / "data").iterdir()} == {NOBODY}
        assert sidecar.returncode == 0


async def test_it_starts_with_an_empty_environment(tmp_path: Path, server: ScriptedServer) -> None:
    async with started(vault_in(tmp_path, server), "env", "-i") as sidecar:
        assert of_process(sidecar, "environ") == ""
        await works(sidecar, server)
