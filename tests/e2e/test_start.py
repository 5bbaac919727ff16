"""Starting and stopping as a process: what it refuses to start with, and says so; how it ends."""

import asyncio
import base64
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pysqlite3
import pytest
import pytest_asyncio

from tests.authserver.scripted import Reply, ScriptedServer, Seen
from tests.e2e.scripted import consent, delegate, issuing, scripted_brand, token_path
from tests.e2e.vaults import Whose, connect, eventually, make_vault, running
from tests.running import CannotStart, SidecarProcess
from tokenvault import DeadlineExceeded, GrantNotFound, Token, VaultUnreachable
from tokenvault_sidecar.devkit import DevelopmentCA

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = Whose(conversation="chat-1")
CANNOT_START = 2


@dataclass(frozen=True)
class Used:
    """A vault that was used: a conversation's grant is in it. The sidecar is stopped."""

    config: Path
    token: Token

    def copy(self, folder: Path) -> "Used":
        shutil.copytree(self.config.parent, folder)
        return Used(folder / self.config.name, self.token)

    @property
    def database(self) -> Path:
        return self.config.parent / "tokenvault.db"

    @property
    def kek(self) -> Path:
        return self.config.parent / "kek"

    def configure(self, old: str, new: str) -> None:
        """Change the configuration's text."""
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new))

    async def still_has_its_grant(self, sidecar: SidecarProcess) -> None:
        async with connect(sidecar) as bot:
            assert await bot.get_token("acme", **CHAT) == self.token


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        server.on("/acme/revoke", Reply())
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def template(server: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Used:
    server.on(token_path("acme"), issuing(server))
    brands = {"acme": scripted_brand(server, "acme")}
    config = make_vault(tmp_path_factory.mktemp("template") / "vault", brands)
    async with running(config) as sidecar, connect(sidecar) as bot:
        await delegate(bot, server, "acme", CHAT)
        token = await bot.get_token("acme", **CHAT)
    return Used(config, token)


@pytest.fixture
def vault(template: Used, tmp_path: Path, server: ScriptedServer) -> Used:
    """A copy, and an authorization server that answers as it should."""
    server.on(token_path("acme"), issuing(server))
    return template.copy(tmp_path / "vault")


def _refused(vault: Used, *, served: bool = False) -> str:
    """What it says as it refuses to start; what was there is as it was, but where another serves it."""
    before = vault.database.read_bytes() if vault.database.is_file() else None
    sidecar = SidecarProcess(vault.config)
    for log in (sidecar.stdout, sidecar.stderr):
        log.unlink(missing_ok=True)
    with pytest.raises(CannotStart):
        sidecar.start()
    assert sidecar.returncode == CANNOT_START
    assert sidecar.stdout.read_text() == ""
    said = sidecar.stderr.read_text()
    assert "Traceback" not in said
    after = vault.database.read_bytes() if vault.database.is_file() else None
    assert served or after == before
    return said.splitlines()[-1]


def _read_only(vault: Used) -> None:
    vault.database.chmod(0o400)


def _no_database(vault: Used) -> None:
    content = vault.database.read_bytes()
    vault.database.write_bytes(b"not a database, however long it is. " + content[36:])


def _cut_off(vault: Used) -> None:
    content = vault.database.read_bytes()
    vault.database.write_bytes(content[: len(content) // 2])


def _overwritten(vault: Used) -> None:
    content = vault.database.read_bytes()
    page = int.from_bytes(content[16:18], "big")
    vault.database.write_bytes(content[:page] + b"\xa5" * (len(content) - page))


def _newer(vault: Used) -> None:
    with pysqlite3.connect(str(vault.database)) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


def _foreign(vault: Used) -> None:
    vault.database.unlink()
    with pysqlite3.connect(str(vault.database)) as connection:
        connection.execute("CREATE TABLE songs (title)")
    connection.close()


def _folder_missing(vault: Used) -> None:
    vault.configure('"tokenvault.db"', '"nowhere/tokenvault.db"')


def _other_kek(vault: Used) -> None:
    vault.kek.write_bytes(base64.b64encode(b"another key of just 32 bytes xyz"))


def _no_kek(vault: Used) -> None:
    vault.kek.unlink()


def _short_kek(vault: Used) -> None:
    vault.kek.write_bytes(base64.b64encode(b"k" * 16))


def _long_kek(vault: Used) -> None:
    vault.kek.write_bytes(base64.b64encode(b"k" * 33))


def _kek_no_base64(vault: Used) -> None:
    vault.kek.write_bytes(b"!" * 44)


def _another_certificate(vault: Used) -> None:
    other = DevelopmentCA.create("other").issue(name="other")
    (vault.config.parent / "server.pem").write_bytes(other.certificate_pem)


def _unknown_key(vault: Used) -> None:
    vault.configure("issuer = ", "isuer = ")


def _remote_http(vault: Used) -> None:
    vault.configure("http://127.0.0.1", "http://login.example")


def _no_secret_file(vault: Used) -> None:
    vault.configure(
        'client_auth = "none"', 'client_auth = "client_secret_post", client_secret_file = "nowhere"'
    )


def _no_configuration(vault: Used) -> None:
    vault.config.unlink()


_MAKE_A_KEK = "openssl rand -base64 32", "head -c 32 /dev/urandom | base64"

REFUSED: dict[str, tuple[Callable[[Used], None], tuple[str, ...]]] = {
    "database read-only": (_read_only, ("{folder}/tokenvault.db: ", "mode 0600")),
    "database is none": (_no_database, ("{folder}/tokenvault.db: ", "damaged", "restore a backup")),
    "database cut off": (_cut_off, ("{folder}/tokenvault.db: ", "damaged", "restore a backup")),
    "database overwritten": (_overwritten, ("{folder}/tokenvault.db: ", "damaged", "restore a backup")),
    "database of a newer schema": (_newer, ("{folder}/tokenvault.db: ", "schema version 99", "newer")),
    "database of another program": (_foreign, ("{folder}/tokenvault.db: ", "another program's")),
    "database in no folder": (_folder_missing, ("store.path is in a folder", "create the folder")),
    "sealed by another KEK": (_other_kek, ("index key", "give the KEK this store was made with")),
    "KEK missing": (_no_kek, ("{config}: keys.kek_file names no file", "create the file")),
    "KEK short": (_short_kek, ("{config}: keys.kek_file names too short", _MAKE_A_KEK[0])),
    "KEK long": (_long_kek, ("{folder}/kek must hold 32 random bytes", _MAKE_A_KEK[1])),
    "KEK not base64": (_kek_no_base64, ("{folder}/kek must hold 32 random bytes", _MAKE_A_KEK[1])),
    "certificate of another key": (_another_certificate, ("{folder}/server.key.pem is not", "server.pem")),
    "unknown key": (_unknown_key, ("{config}: brands.acme.isuer is not a known key", "'issuer'")),
    "http to elsewhere": (_remote_http, ("{config}: brands.acme.", "use https")),
    "client secret missing": (_no_secret_file, ("{config}: brands.acme.client_secret_file", "create the")),
    "configuration missing": (_no_configuration, ("{config}: there is no such file", "tokenvault init")),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refuses_to_start(name: str, vault: Used) -> None:
    spoil, expected = REFUSED[name]
    spoil(vault)
    said = _refused(vault)
    for part in expected:
        assert part.format(folder=vault.config.parent, config=vault.config) in said


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


async def test_port_is_taken(vault: Used, taken_port: int) -> None:
    vault.configure("127.0.0.1:0", f"127.0.0.1:{taken_port}")
    said = _refused(vault)
    assert f"cannot listen on 127.0.0.1:{taken_port}: in use already" in said


async def test_socket_is_taken(vault: Used) -> None:
    vault.configure('listen = ["127.0.0.1:0"]', 'listen = ["unix:vault.sock"]')
    async with running(vault.config) as first:
        said = _refused(vault, served=True)
        assert f"cannot listen on unix:{vault.config.parent}/vault.sock" in said
        await vault.still_has_its_grant(first)


async def test_mended_it_starts_with_all_it_had(vault: Used) -> None:
    kek = vault.kek.read_bytes()
    _other_kek(vault)
    _read_only(vault)
    assert "mode 0600" in _refused(vault)
    vault.database.chmod(0o600)
    assert "give the KEK" in _refused(vault)
    vault.kek.write_bytes(kek)
    async with running(vault.config) as sidecar:
        await vault.still_has_its_grant(sidecar)


async def test_kek_open_to_everybody_is_warned_of(vault: Used) -> None:
    vault.kek.chmod(0o644)
    async with running(vault.config) as sidecar:
        said = sidecar.stderr.read_text()
        assert f"keys.kek_file: {vault.kek} can be read or written by others (mode 0644)" in said
        assert "chmod 600" in said
        await vault.still_has_its_grant(sidecar)


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
async def test_ends_when_told(by: signal.Signals, vault: Used) -> None:
    async with running(vault.config) as sidecar:
        assert sidecar.stop(by) == 0
    assert [path.name for path in vault.config.parent.glob("tokenvault.db*")] == ["tokenvault.db"]


async def test_finishes_what_is_under_way(vault: Used, server: ScriptedServer) -> None:
    held = asyncio.Event()

    def hold(seen: Seen) -> Reply:
        return replace(issuing(server)(seen), delay=held)

    async with running(vault.config) as sidecar, connect(sidecar) as bot:
        await delegate(bot, server, "acme", Whose(consumer="c-1"))
        before = await bot.get_token("acme", consumer="c-1")
        response = consent(server, await bot.start_delegation("acme", conversation="chat-2"))
        asked = len(server.requests(token_path("acme")))
        server.on(token_path("acme"), hold)
        renewal = asyncio.create_task(
            bot.get_token("acme", consumer="c-1", rejected_token_version=before.token_version)
        )
        await server.arrived(token_path("acme"), asked + 1)
        renewal.cancel()  # its caller goes away: the redemption must be saved all the same
        completion = asyncio.create_task(bot.complete_delegation(response))
        await server.arrived(token_path("acme"), asked + 2)

        stopping = asyncio.create_task(asyncio.to_thread(sidecar.stop))
        await eventually(lambda: _is_unreachable(sidecar))
        assert not completion.done()
        assert not stopping.done()
        held.set()
        assert (await completion).conversation == "chat-2"
        assert await stopping == 0

    server.on(token_path("acme"), issuing(server))
    async with running(vault.config) as sidecar, connect(sidecar) as bot:
        await bot.get_token("acme", conversation="chat-2")
        after = await bot.get_token("acme", consumer="c-1", rejected_token_version=before.token_version)
        assert after.access_token != before.access_token
        assert len(server.requests(token_path("acme"))) == asked + 2
        await vault.still_has_its_grant(sidecar)


async def test_two_on_one_file(server: ScriptedServer, tmp_path: Path) -> None:
    """Both start at once where there is no file yet, and agree on its keys."""
    server.on(token_path("acme"), issuing(server))
    config = make_vault(tmp_path / "vault", {"acme": scripted_brand(server, "acme")})
    logs = [tmp_path / "one", tmp_path / "two"]
    for folder in logs:
        folder.mkdir()
    async with AsyncExitStack() as stack:
        sidecars = await asyncio.gather(
            *(stack.enter_async_context(running(config, logs=folder)) for folder in logs)
        )
        one, two = [await stack.enter_async_context(connect(sidecar)) for sidecar in sidecars]
        response = consent(server, await one.start_delegation("acme", consumer="c-1"))
        await two.complete_delegation(response)
        first = await one.get_token("acme", consumer="c-1")
        asked = len(server.requests(token_path("acme")))
        renewed = await asyncio.gather(
            *(
                vault.get_token("acme", consumer="c-1", rejected_token_version=first.token_version)
                for vault in (one, two) * 5
            )
        )
        assert len({token.access_token for token in renewed}) == 1
        assert len(server.requests(token_path("acme"))) == asked + 1

        sidecars[0].kill()
        assert await two.get_token("acme", consumer="c-1") == renewed[0]
        await two.invalidate("acme", consumer="c-1")
        with pytest.raises(GrantNotFound):
            await two.get_token("acme", consumer="c-1")


async def _is_unreachable(sidecar: SidecarProcess) -> bool:
    async with connect(sidecar) as late:
        try:
            await late.get_token("acme", **CHAT, timeout=5.0)  # the client repeats it for a second
        except VaultUnreachable:
            return True
        except DeadlineExceeded:
            pass  # a slow machine: ask again
    return False
