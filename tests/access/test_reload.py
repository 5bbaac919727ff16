"""Certificates, policy and brands change under a running sidecar: no call fails, what is broken stays out."""

import asyncio
import base64
import dataclasses
import itertools
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pysqlite3
import pytest
import pytest_asyncio
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.access.steering import Configuration, authority, channel, put_caller, replace, said, says
from tests.authserver.scripted import Reply, ScriptedServer
from tests.e2e.scripted import CLIENT_ID, consent, delegate, issuing, scripted_brand, token_path
from tests.e2e.vaults import BOT, OTHER_BOT, PATIENCE, Whose, connect, eventually, make_vault, running
from tests.running import SidecarProcess, caller_files
from tokenvault import (
    AsyncTokenVaultClient,
    InvalidRequest,
    PolicyDenied,
    StateNotFound,
    Token,
    TokenVaultError,
    UnknownCaller,
    VaultUnreachable,
)
from tokenvault_sidecar.devkit import DevelopmentCA

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROTATIONS = 50
BY_FILE_CHANGE_EVERY = 10
ALICE = Whose(consumer="alice")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        for brand in ("acme", "globex"):
            server.on(token_path(brand), issuing(server))
            server.on(f"/{brand}/revoke", Reply())
        yield server


@dataclass
class Place:
    """A running sidecar of brands acme and globex, alice's grants, and a client of the bot's."""

    server: ScriptedServer
    process: SidecarProcess
    configuration: Configuration
    bot: AsyncTokenVaultClient
    token: Token
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder = self.process.folder

    async def reload(self, *, hang_up: bool = True) -> None:
        """Write the configuration; wait until it is in force."""
        before = len(said(self.process, "reloaded"))
        self.configuration.write()
        if hang_up:
            os.kill(self.process.pid, signal.SIGHUP)
        await says(self.process, "reloaded", before + 1)

    async def still_serves(self) -> None:
        assert await self.bot.get_token("acme", **ALICE) == self.token


@asynccontextmanager
async def placed(
    folder: Path, server: ScriptedServer, *, connection_max_age: str = "1h", longest_call: str = "60s"
) -> AsyncIterator[Place]:
    brands = {name: scripted_brand(server, name) for name in ("acme", "globex")}
    config = make_vault(folder / "vault", brands, limits={"longest_call": longest_call})
    trusted = config.with_name("trusted.pem")  # of clients; ca.pem is what they trust
    trusted.write_bytes((config.parent / "ca.pem").read_bytes())
    configuration = Configuration(config)
    configuration.content["server"] |= {
        "client_ca_file": trusted.name,
        "connection_max_age": connection_max_age,
    }
    configuration.write()
    async with running(config) as process, connect(process) as bot:
        for brand in brands:
            await delegate(bot, server, brand, ALICE)
        token = await bot.get_token("acme", **ALICE)
        yield Place(server, process, configuration, bot, token)


@pytest_asyncio.fixture(loop_scope="module")
async def place(tmp_path: Path, server: ScriptedServer) -> AsyncIterator[Place]:
    async with placed(tmp_path, server) as place:
        yield place


@dataclass
class Load:
    """Calls without pause but for breath, each client one after the other."""

    calls: int = 0
    failed: list[TokenVaultError] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def client(self, vault: AsyncTokenVaultClient, place: Place) -> None:
        for number in itertools.count():
            if self.over.is_set():
                return
            try:
                assert await vault.get_token("acme", **ALICE) == place.token
                if number % 10 == 0:
                    challenge = await vault.start_delegation("acme", conversation=f"chat-{number}")
                    await vault.complete_delegation(consent(place.server, challenge))
            except TokenVaultError as error:
                self.failed.append(error)
            self.calls += 1
            await asyncio.sleep(0.01)

    async def goes_on(self, calls: int) -> None:
        """Wait until so many more calls are over."""
        enough = self.calls + calls

        async def over() -> bool:
            return self.calls >= enough

        await eventually(over)


@pytest.mark.timeout(300)
async def test_everything_is_rotated_under_load_and_no_call_fails(
    tmp_path: Path, server: ScriptedServer
) -> None:
    """Each rotation: the server's certificate, the CA bundle, the policy, and the brands."""
    async with (
        placed(tmp_path, server, connection_max_age="1s") as place,
        AsyncExitStack() as clients,
    ):
        load = Load()
        vaults = [await clients.enter_async_context(connect(place.process, BOT)) for _ in range(6)]
        own, foreign = authority(place.folder), DevelopmentCA.create("another authority")
        issued = foreign.issue(name="guest", uris=["spiffe://guests.test/guest"])
        put_caller(place.folder, "guest", issued)
        trust, guests_trust = clients_trust(place.folder), clients_trust(place.folder, "guest")
        tables = place.configuration.content
        guest, globex = tables["callers"][OTHER_BOT], tables["brands"]["globex"]
        async with asyncio.TaskGroup() as callers:
            for vault in vaults:
                callers.create_task(load.client(vault, place))
            try:
                for rotation in range(ROTATIONS):
                    let_in = rotation % 2 == 0
                    # Two files, one after the other: in between they do not fit, and the old ones serve.
                    server_issued = own.issue(name=f"server {rotation}", dns=["localhost"], ips=["127.0.0.1"])
                    replace(place.folder / "server.pem", server_issued.certificate_pem)
                    replace(place.folder / "server.key.pem", server_issued.private_key_pem)
                    bundle = own.certificate_pem + (foreign.certificate_pem if let_in else b"")
                    replace(place.folder / "trusted.pem", bundle)
                    if let_in:
                        identities = ["spiffe://guests.test/*"]
                        tables["callers"]["guest"] = guest | {"identities": identities}
                        tables["brands"]["globex"] = globex | {"delegation_lifetime": f"{rotation + 1}m"}
                    else:
                        del tables["callers"]["guest"], tables["brands"]["globex"]
                    # Of another setting, another connection to its server is made.
                    revoke = f"{server.url}/acme/revoke?{rotation}"
                    tables["brands"]["acme"]["revocation_endpoint"] = revoke
                    tables["callers"][BOT]["limits"] = {"rate": 5000.0 + rotation}
                    await place.reload(hang_up=rotation % BY_FILE_CHANGE_EVERY != 0)

                    shown = await asyncio.to_thread(certificate_of, place.process, trust)
                    assert shown == server_issued.certificate_pem
                    assert await asyncio.to_thread(spoken_to, place.process, guests_trust) is let_in
                    if let_in:
                        async with connect(place.process, "guest") as vault:
                            assert await vault.get_token("acme", **ALICE) == place.token
                            await vault.get_token("globex", **ALICE)
                    await load.goes_on(len(vaults))
                async with connect(place.process, "guest") as vault:
                    with pytest.raises(VaultUnreachable):  # after some tries, which take their time
                        await vault.get_token("acme", **ALICE)
            finally:
                load.over.set()
        assert load.failed == []
        assert load.calls > ROTATIONS
        assert said(place.process, "reload_refused") == []


def clients_trust(folder: Path, caller: str = BOT) -> ssl.SSLContext:
    files = caller_files(folder, caller)
    context = ssl.create_default_context(cafile=files["ca"])
    context.load_cert_chain(files["certificate"], files["private_key"])
    context.set_alpn_protocols(["h2"])
    return context


def certificate_of(process: SidecarProcess, trust: ssl.SSLContext) -> bytes:
    """What the server shows to a new connection, PEM."""
    host, _, port = process.address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), PATIENCE) as raw,
        trust.wrap_socket(raw, server_hostname=host) as connection,
    ):
        shown = connection.getpeercert(binary_form=True)
    assert shown is not None
    return ssl.DER_cert_to_PEM_cert(shown).encode()


def spoken_to(process: SidecarProcess, trust: ssl.SSLContext) -> bool:
    """Whether a new connection gets more than an alert (RFC 8446 section 6.2): HTTP/2's first frame."""
    host, _, port = process.address.rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE) as raw:
        try:
            with trust.wrap_socket(raw, server_hostname=host) as connection:
                return connection.recv(1) != b""
        except (ssl.SSLError, ConnectionResetError):
            return False


SIGHUP, FILE_CHANGE = True, False
HOW = pytest.mark.parametrize("hang_up", [SIGHUP, FILE_CHANGE], ids=["SIGHUP", "file change"])


@pytest.mark.parametrize(
    ("hang_up", "old", "new", "problem"),
    [
        (SIGHUP, "server = {", "server = {{", "not TOML"),
        (FILE_CHANGE, "issuer = ", "isuer = ", "brands.acme.isuer is not a known key"),
        (SIGHUP, 'auth = "none"', 'auth = "client_secret_basic"', "client_secret_file is missing"),
    ],
    ids=["not TOML", "unknown key", "does not fit"],
)
async def test_a_broken_configuration_is_reported_and_the_old_stays(
    place: Place, hang_up: bool, old: str, new: str, problem: str
) -> None:
    text = place.configuration.path.read_text()
    assert old in text
    # Nothing of it applies: it would let the bot in no more.
    broken = text.replace(old, new).replace("tokenvault.test/bot", "tokenvault.test/nobody")
    for attempt in (1, 2):  # the watch goes on after the first
        replace(place.configuration.path, broken + f"# {attempt}\n")
        if hang_up:
            os.kill(place.process.pid, signal.SIGHUP)
        refused = await says(place.process, "reload_refused", attempt)
        assert problem in "".join(refused["problems"])
        assert str(place.configuration.path) in "".join(refused["problems"])
        await place.still_serves()
    assert said(place.process, "reloaded") == []
    place.configuration.content["callers"].pop(OTHER_BOT)
    await place.reload(hang_up=hang_up)
    await place.still_serves()


SPOILT = {
    "certificate": ("server.pem", "holds no PEM certificate"),
    "private key": ("server.key.pem", "holds no PEM private key"),
    "CA bundle": ("trusted.pem", "holds no PEM certificate"),
}


@pytest.mark.parametrize("spoilt", SPOILT)
async def test_a_broken_certificate_is_reported_and_the_old_stays(place: Place, spoilt: str) -> None:
    name, problem = SPOILT[spoilt]
    good = (place.folder / name).read_bytes()
    before = await asyncio.to_thread(certificate_of, place.process, clients_trust(place.folder))
    for content in (b"rubbish", good[: len(good) // 2]):
        replace(place.folder / name, content)
        assert await asyncio.to_thread(certificate_of, place.process, clients_trust(place.folder)) == before
        async with connect(place.process) as newcomer:
            assert await newcomer.get_token("acme", **ALICE) == place.token
        assert f"{place.folder / name} {problem}" in said(place.process, "tls_files_invalid")[-1]["problem"]
    assert said(place.process, "tls_files_reloaded") == []
    replace(place.folder / name, good)
    async with connect(place.process) as newcomer:
        assert await newcomer.get_token("acme", **ALICE) == place.token
    assert len(said(place.process, "tls_files_reloaded")) == 1


@HOW
async def test_a_removed_caller_is_refused_at_its_next_call(place: Place, hang_up: bool) -> None:
    async with connect(place.process, OTHER_BOT) as other:
        assert await other.get_token("acme", **ALICE) == place.token
        table = place.configuration.content["callers"].pop(OTHER_BOT)
        await place.reload(hang_up=hang_up)
        with pytest.raises(UnknownCaller):
            await other.get_token("acme", **ALICE)
        await place.still_serves()
        table["allow"][0]["rpcs"] = ["Invalidate"]
        place.configuration.content["callers"][OTHER_BOT] = table
        await place.reload(hang_up=hang_up)
        with pytest.raises(PolicyDenied):
            await other.get_token("acme", **ALICE)


async def test_callers_of_a_removed_authority_are_gone_within_connection_max_age(
    tmp_path: Path, server: ScriptedServer
) -> None:
    """Even who holds its connection open by a stream that never ends."""
    async with placed(tmp_path, server, connection_max_age="1s", longest_call="1s") as place:
        foreign = DevelopmentCA.create("another authority")
        put_caller(place.folder, "guest", foreign.issue(name="guest", uris=["spiffe://guests.test/guest"]))
        callers = place.configuration.content["callers"]
        callers["guest"] = callers[OTHER_BOT] | {"identities": ["spiffe://guests.test/*"]}
        await place.reload()
        own = (place.folder / "trusted.pem").read_bytes()
        replace(place.folder / "trusted.pem", own + foreign.certificate_pem)
        async with connect(place.process, "guest") as guest, channel(place.process, "guest") as watching:
            assert await guest.get_token("acme", **ALICE) == place.token
            watch = HealthStub(watching).Watch(HealthCheckRequest(), timeout=PATIENCE)
            await anext(aiter(watch))
            replace(place.folder / "trusted.pem", own)

            async def gone() -> bool:
                try:
                    await guest.get_token("acme", **ALICE)
                except VaultUnreachable:
                    return True
                return False

            await eventually(gone)
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await anext(aiter(watch))
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
            assert await gone()
        await place.still_serves()


async def test_a_removed_brand_is_a_clear_error_and_returns_with_its_grants(place: Place) -> None:
    brands = place.configuration.content["brands"]
    kept = await place.bot.get_token("globex", **ALICE)
    pending = consent(place.server, await place.bot.start_delegation("globex", conversation="chat"))
    globex, before = brands.pop("globex"), rows(place.folder)
    await place.reload()
    for call in (
        place.bot.get_token("globex", **ALICE),
        place.bot.invalidate("globex", **ALICE),
        place.bot.start_delegation("globex", **ALICE),
    ):
        with pytest.raises(InvalidRequest, match="globex") as refused:
            await call
        assert [violation.field for violation in refused.value.field_violations] == ["brand_id"]
    with pytest.raises(StateNotFound):
        await place.bot.complete_delegation(pending)
    await place.still_serves()
    assert rows(place.folder) == before
    brands["globex"] = globex
    await place.reload()
    assert await place.bot.get_token("globex", **ALICE) == kept
    assert (await place.bot.complete_delegation(pending)).conversation == "chat"


async def test_what_a_removed_brands_server_answers_late_is_kept(place: Place) -> None:
    brands = place.configuration.content["brands"]
    old = await place.bot.get_token("globex", **ALICE)
    asked, held = len(place.server.requests(token_path("globex"))), asyncio.Event()
    issue = issuing(place.server)
    place.server.on(token_path("globex"), lambda seen: dataclasses.replace(issue(seen), delay=held))
    renewal = asyncio.create_task(
        place.bot.get_token("globex", **ALICE, rejected_token_version=old.token_version)
    )
    await place.server.arrived(token_path("globex"), asked + 1)
    globex = brands.pop("globex")
    await place.reload()
    held.set()
    new = await renewal
    assert new.access_token != old.access_token
    brands["globex"] = globex
    await place.reload()
    again = await place.bot.get_token("globex", **ALICE, rejected_token_version=old.token_version)
    assert again == new
    assert len(place.server.requests(token_path("globex"))) == asked + 1
    place.server.on(token_path("globex"), issue)


async def test_a_new_client_secret_is_used_once_its_file_changes(
    tmp_path: Path, server: ScriptedServer
) -> None:
    async with placed(tmp_path, server) as place:
        (place.folder / "secret").write_text("first")
        place.configuration.content["brands"]["acme"] |= {
            "client_auth": "client_secret_basic",
            "client_secret_file": "secret",
        }
        await place.reload(hang_up=False)
        for secret in ("first", "second"):
            if secret != "first":
                before = len(said(place.process, "reloaded"))
                replace(place.folder / "secret", secret)
                await says(place.process, "reloaded", before + 1)
            await delegate(place.bot, server, "acme", Whose(conversation=secret))
            shown = server.requests(token_path("acme"))[-1].headers["authorization"]
            assert base64.b64decode(shown.removeprefix("Basic ")).decode() == f"{CLIENT_ID}:{secret}"


async def test_keys_that_need_a_restart_are_named_and_the_rest_applies(place: Place) -> None:
    tables = place.configuration.content
    tables["server"] |= {"listen": ["127.0.0.1:1"], "drain_timeout": "7s"}
    tables["store"] |= {"path": "elsewhere.db"}
    tables["audit"] = {"path": "audit.jsonl"}
    tables["renewal"] |= {"lease": "50s", "redemption_deadline": "40s"}
    tables["housekeeping"] = {"interval": "5m"}
    del tables["callers"][OTHER_BOT]
    for times in (1, 2):  # at every reload until then
        await place.reload()
        told = await says(place.process, "restart_needed", times)
        assert set(told["unchanged"]) == {
            "server.listen",
            "server.drain_timeout",
            "store.path",
            "renewal.lease",
            "renewal.redemption_deadline",
            "audit",
        }
    await place.still_serves()
    async with connect(place.process, OTHER_BOT) as other:
        with pytest.raises(UnknownCaller):
            await other.get_token("acme", **ALICE)
    assert not (place.folder / "audit.jsonl").exists()
    assert not (place.folder / "elsewhere.db").exists()
    assert (await asyncio.to_thread(place.process.stop)) == 0


def rows(folder: Path) -> list[tuple[object, ...]]:
    """What the store keeps, as it is in the file."""
    with pysqlite3.connect(f"file:{folder / 'tokenvault.db'}?mode=ro", uri=True) as database:
        found = list(database.execute("SELECT key, brand, version, sealed FROM grants ORDER BY key"))
    database.close()
    return found
