"""The record of decisions: a line for each call and outcome, chained, written before anything leaves."""

import asyncio
import itertools
import json
import os
import random
import resource
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pysqlite3
import pytest
import pytest_asyncio
from click.testing import CliRunner
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from tests.access.steering import Configuration, authority, channel, put_caller, says
from tests.authserver.scripted import Reply, ScriptedServer
from tests.e2e.canaries import Canaries, files
from tests.e2e.scripted import (
    access_token_for,
    consent,
    delegate,
    issuing,
    refresh_token_for,
    scripted_brand,
    token_path,
)
from tests.e2e.vaults import (
    BOT,
    OTHER_BOT,
    SERVICE,
    STRANGER,
    Whose,
    connect,
    eventually,
    make_vault,
    running,
)
from tests.running import COMMAND, CannotStart, SidecarProcess
from tokenvault import (
    AsyncTokenVaultClient,
    GrantNotFound,
    StoreUnavailable,
    TokenVaultError,
    VaultUnreachable,
)
from tokenvault._status import error_from
from tokenvault_sidecar.adapters.audit import BROKEN_END, UNWRITTEN
from tokenvault_sidecar.cli import main
from tokenvault_sidecar.core.errors import Reason

pytestmark = pytest.mark.asyncio(loop_scope="module")

ORDERS = "orders-service"
"""A caller that has to show a bearer token too, and has none."""

NOT_TO_BE_HAD = {Reason.INTERNAL.value, Reason.STORE_UNAVAILABLE.value}
"""A defect; and what the log itself, out of order, is answered with."""

ALICE = Whose(consumer="alice")
FACTS = {"time", "caller", "identity", "rpc", "brand", "context", "outcome", "version", "mac"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


@pytest.fixture
def config(tmp_path: Path, server: ScriptedServer) -> Path:
    """Of a vault that keeps an audit log."""
    server.on(token_path("acme"), issuing(server))
    server.on("/acme/revoke", Reply())
    brands = {"acme": scripted_brand(server, "acme")}
    return make_vault(tmp_path / "vault", brands, audit={"path": "audit.jsonl"})


def change(config: Path, table: str, **keys: object) -> None:
    configuration = Configuration(config)
    configuration.content.setdefault(table, {}).update(keys)
    configuration.write()


def lines(config: Path) -> list[dict[str, Any]]:
    """The log's whole lines, older files' too."""
    found = []
    for file in sorted(config.parent.glob("audit.jsonl*")):
        if file.suffix != ".head":
            text = file.read_text()
            found += [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return found


def verify(config: Path) -> tuple[int, str]:
    """Exit status and output of `tokenvault audit verify`."""
    with ThreadPoolExecutor() as pool:  # it has a loop of its own
        done = pool.submit(CliRunner().invoke, main, ["audit", "verify", "--config", str(config)]).result()
    return done.exit_code, done.output


def verify_as_process(config: Path) -> tuple[int, str]:
    """The same, beside a sidecar that goes on writing."""
    command = [*COMMAND, "audit", "verify", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


@dataclass
class Record:
    """Compares what a call leaves in the log with what it should."""

    config: Path
    lines: int = 0
    outcomes: set[str] = field(default_factory=set)
    contexts: dict[str, str] = field(default_factory=dict)

    @asynccontextmanager
    async def one_line(
        self,
        outcome: str,
        rpc: str,
        *,
        caller: str | None = BOT,
        brand: str | None = "acme",
        whose: Whose | None = None,
    ) -> AsyncIterator[list[str | None]]:
        """Around a call: it ends so, and leaves this one line. Put its token version into the list."""
        begin = datetime.now(UTC) - timedelta(milliseconds=1)  # to which the log's times are cut off
        told, versions = "OK", list[str | None]()
        try:
            yield versions
        except TokenVaultError as error:
            told = error.reason or error.code.name
        except grpc.aio.AioRpcError as error:
            told = error_from(error, address="", timeout=0).reason or error.code().name
        assert told == outcome or outcome == "CANCELLED"  # by the caller itself

        async def there() -> list[dict[str, Any]]:
            return lines(self.config)[self.lines :]

        (line,) = await eventually(there)
        self.lines += 1
        self.outcomes.add(outcome)
        assert set(line) == FACTS
        assert (line["outcome"], line["rpc"], line["caller"]) == (outcome, rpc, caller)
        assert (line["brand"], [line["version"]]) == (brand, versions or [None])
        assert begin <= datetime.fromisoformat(line["time"]) <= datetime.now(UTC)
        if whose is None:
            assert line["context"] is None
        else:
            assert line["context"] == self.contexts.setdefault(f"{brand} {whose}", line["context"])
            assert len(set(self.contexts.values())) == len(self.contexts)


async def test_every_rpc_and_outcome_leaves_one_line_and_no_secret(
    tmp_path: Path, server: ScriptedServer
) -> None:
    canaries = Canaries()
    alice, mallory, nobody = (Whose(consumer=canaries.plant(name)) for name in ("alice", "mallory", "nobody"))
    chat, other_chat = (Whose(conversation=canaries.plant(name)) for name in ("chat", "other chat"))
    config = await prepare(tmp_path / "vault", server)
    record = Record(config)
    one = record.one_line

    def consented(link: Any, account: str = "alice", *, brand: str = "acme") -> dict[str, str]:
        response = consent(server, link, account)
        for name, secret in (
            ("a state", response["state"]),
            ("a code", response["code"]),
            ("an access token", access_token_for(response["code"])),
            ("a refresh token", refresh_token_for(response["code"])),
        ):
            canaries.know(name, secret)
        return response

    async with (
        running(config) as sidecar,
        connect(sidecar) as bot,
        connect(sidecar, SERVICE) as service,
        connect(sidecar, STRANGER) as stranger,
        connect(sidecar, OTHER_BOT) as other_bot,
        connect(sidecar, ORDERS) as orders,
        channel(sidecar, BOT) as raw,
        channel(sidecar, SERVICE) as raw_service,
    ):

        async def started(whose: Whose, brand: str = "acme") -> Any:
            async with one("OK", "StartDelegation", brand=brand, whose=whose):
                return await bot.start_delegation(brand, **whose)

        async def completed(whose: Whose, outcome: str, account: str = "alice", **changes: str) -> None:
            response = consented(await started(whose), account) | changes
            async with one(outcome, "CompleteDelegation", whose=whose):
                await bot.complete_delegation(response)

        # the way it should be
        await completed(alice, "OK")
        await completed(chat, "OK")
        for vault, caller, whose in ((bot, BOT, alice), (service, SERVICE, alice), (bot, BOT, chat)):
            async with one("OK", "GetToken", caller=caller, whose=whose) as versions:
                versions.append(version := (await vault.get_token("acme", **whose)).token_version)

        # who may not
        async with one("UNKNOWN_CALLER", "GetToken", caller=None, brand=None):
            await stranger.get_token("acme", **alice)
        async with one("POLICY_DENIED", "GetToken", caller=SERVICE, whose=chat):
            await service.get_token("acme", **chat)
        async with one("POLICY_DENIED", "StartDelegation", caller=SERVICE, whose=alice):
            await service.start_delegation("acme", **alice)
        async with one("POLICY_DENIED", "Invalidate", caller=SERVICE, whose=alice):
            await service.invalidate("acme", **alice)
        async with one("POLICY_DENIED", "CompleteDelegation", caller=SERVICE, brand=None):
            await service.complete_delegation(state="s" * 43, code="c")
        async with one("BEARER_INVALID", "GetToken", caller=ORDERS, brand=None):
            await orders.get_token("acme", **alice)
        async with one("OK", "GetToken", caller=OTHER_BOT, whose=alice) as versions:
            versions.append((await other_bot.get_token("acme", **alice)).token_version)
        async with one("RATE_LIMITED", "GetToken", caller=OTHER_BOT, brand=None):
            await other_bot.get_token("acme", **alice)

        # what is not there, or not as asked
        async with one("GRANT_NOT_FOUND", "GetToken", whose=nobody):
            await bot.get_token("acme", **nobody)
        async with one("SCOPE_NOT_GRANTED", "GetToken", whose=chat):
            await bot.get_token("acme", **chat, scopes="payments")
        async with one("CONSENT_REQUIRED", "GetToken", whose=chat):
            await bot.get_token("acme", **chat, rejected_token_version=version)
        async with one("INVALID_REQUEST", "GetToken", brand="nowhere", whose=alice):
            await bot.get_token("nowhere", **alice)
        async with one("INVALID_REQUEST", "GetToken", brand=None):
            await bot.get_token("acme", consumer="")
        async with one("INVALID_REQUEST", "GetToken", brand=None):
            get_token: Any = raw.unary_unary("/tokenvault.v1.TokenVault/GetToken")
            await get_token(b"malformed", timeout=30)
        response = consented(await started(alice, "brief"))
        async with one("OK", "CompleteDelegation", brand="brief", whose=alice):
            await bot.complete_delegation(response)
        async with one("SESSION_ENDED", "GetToken", brand="brief", whose=alice):
            await bot.get_token("brief", **alice)

        # delegations that come to nothing
        async with one("STATE_NOT_FOUND", "CompleteDelegation", brand=None):
            await bot.complete_delegation(state="s" * 43, code="c")
        denied = consent(server, await started(other_chat))
        async with one("AUTHORIZATION_DENIED", "CompleteDelegation", whose=other_chat):
            await bot.complete_delegation(state=denied["state"], error="access_denied", iss=denied["iss"])
        await completed(other_chat, "ISSUER_MISMATCH", iss="https://elsewhere.example")
        await completed(alice, "SUBJECT_MISMATCH", "mallory")
        for answer, outcome, whose in (
            (issuing(server, wrong="nonce"), "INVALID_ID_TOKEN", mallory),
            (Reply(status=400, json={"error": "invalid_grant"}), "CODE_REJECTED", other_chat),
            (Reply(status=401, json={"error": "invalid_client"}), "AS_MISCONFIGURED", other_chat),
            (Reply(status=503), "AS_UNAVAILABLE", other_chat),
        ):
            server.on(token_path("acme"), answer)
            await completed(whose, outcome)
        held = asyncio.Event()
        server.on(token_path("acme"), Reply(status=503, delay=held))
        await completed(other_chat, "DEADLINE_EXCEEDED")  # by limits.longest_call
        response = consented(await started(other_chat))
        async with one("CANCELLED", "CompleteDelegation", whose=other_chat):
            await bot.complete_delegation(response, timeout=0.5)
        held.set()

        # a code that the consumer has to bring
        link = await started(chat, "guarded")
        async with one("OK", "CompleteDelegation", brand="guarded", whose=chat):
            shown = (await bot.complete_delegation(consented(link))).confirmation
        assert shown is not None
        canaries.know("a confirmation code", shown.code, least=8)
        async with one("CONFIRMATION_REQUIRED", "GetToken", brand="guarded", whose=chat):
            await bot.get_token("guarded", challenge=True, **chat)
        async with one("CONFIRMATION_CODE_WRONG", "ConfirmDelegation", brand="guarded", whose=chat):
            await bot.confirm_delegation(link.delegation_id, f"{(int(shown.code) + 1) % 10**8:08}")
        async with one("OK", "ConfirmDelegation", brand="guarded", whose=chat):
            await bot.confirm_delegation(link.delegation_id, shown.code)

        # and the services beside it
        async with one("OK", "Check", brand=None):
            await HealthStub(raw).Check(HealthCheckRequest(), timeout=30)
        async with one("NOT_FOUND", "Check", brand=None):
            await HealthStub(raw).Check(HealthCheckRequest(service="no.such.Service"), timeout=30)
        async with one("POLICY_DENIED", "Check", caller=SERVICE, brand=None):
            await HealthStub(raw_service).Check(HealthCheckRequest(), timeout=30)
        async with one("CANCELLED", "Watch", brand=None):
            watch = HealthStub(raw).Watch(HealthCheckRequest(), timeout=30)
            await anext(aiter(watch))
            watch.cancel()
        async with one("OK", "ServerReflectionInfo", brand=None):
            ask = iter([ServerReflectionRequest(list_services="")])
            assert [_ async for _ in ServerReflectionStub(raw).ServerReflectionInfo(ask, timeout=30)]

        async with one("OK", "Invalidate", whose=chat):
            await bot.invalidate("acme", **chat)
        async with one("OK", "Invalidate", whose=nobody):
            await bot.invalidate("acme", **nobody)

        # The contexts are the blind keys that the store has: of nobody else's guess.
        with pysqlite3.connect(str(config.parent / "tokenvault.db")) as database:
            (key,) = database.execute("SELECT key FROM grants WHERE brand = 'acme'").fetchall()
        database.close()
        assert record.contexts[f"acme {alice}"] == key[0].hex()

    assert record.outcomes >= {reason.value for reason in Reason} - NOT_TO_BE_HAD
    assert len(lines(config)) == record.lines
    assert verify(config) == (0, f"{log_of(config)} is whole: {record.lines} lines\n")
    logs = {name: content for name, content in files(config.parent).items() if "audit.jsonl" in name}
    assert len(logs) == 2
    assert canaries.leaks(logs) == []
    for file in (log_of(config), config.with_name("audit.jsonl.head")):
        assert file.stat().st_mode & 0o777 == 0o600


async def prepare(folder: Path, server: ScriptedServer) -> Path:
    brief = {"scopes": ["openid", "offline_access"], "session_absolute": "1ms", "session_idle": "1ms"}
    brands = {
        "acme": scripted_brand(server, "acme"),
        "brief": scripted_brand(server, "brief", consumer=brief),
        "guarded": scripted_brand(server, "guarded", confirmation_code=True),
    }
    for name in brands:
        server.on(token_path(name), issuing(server))
        server.on(f"/{name}/revoke", Reply())
    config = make_vault(folder, brands, audit={"path": "audit.jsonl"}, limits={"longest_call": "2s"})
    change(config, "housekeeping", interval="1h")
    configuration = Configuration(config)
    callers = configuration.content["callers"]
    callers[OTHER_BOT]["limits"] = {"rate": 0.001, "burst": 1}
    callers[ORDERS] = callers[SERVICE] | {
        "identities": [f"spiffe://tokenvault.test/{ORDERS}"],
        "bearer": {"issuer": server.issuer, "audience": "vault"},
    }
    configuration.write()
    issued = authority(folder).issue(name=ORDERS, uris=[f"spiffe://tokenvault.test/{ORDERS}"])
    put_caller(folder, ORDERS, issued)
    return config


def log_of(config: Path) -> Path:
    return config.with_name("audit.jsonl")


# The chain


async def read_on(vault: AsyncTokenVaultClient, answered: list[str]) -> None:
    """Read over and over until the sidecar is gone; each answer's token version."""
    try:
        while True:
            answered.append((await vault.get_token("acme", **ALICE)).token_version)
            await asyncio.sleep(0.01)
    except VaultUnreachable:
        return
    except TokenVaultError as error:
        if error.code is not grpc.StatusCode.CANCELLED:  # it arrived as the sidecar stopped
            raise


@pytest.mark.parametrize("rotates", ["never", "by size", "by others"])
async def test_the_chain_holds_through_kills_restarts_and_rotation(
    config: Path, server: ScriptedServer, rotates: str
) -> None:
    """And whatever was answered is in it: a process that is killed takes no line along."""
    if rotates == "by size":
        change(config, "audit", rotate_bytes=10_000)
    random.seed(2026)
    answered: list[str] = []
    for turn in range(4):
        sidecar = SidecarProcess(config)
        await asyncio.to_thread(sidecar.start)
        async with connect(sidecar) as bot:
            if turn == 0:
                await delegate(bot, server, "acme", ALICE)
            readers = [asyncio.create_task(read_on(bot, answered)) for _ in range(4)]
            await until(answered, len(answered) + random.randint(50, 150))
            if rotates == "by others":
                shift(log_of(config))
                os.kill(sidecar.pid, signal.SIGHUP)
                await until(answered, len(answered) + 20)
            if turn % 2:
                assert (await asyncio.to_thread(verify_as_process, config))[0] == 0
                await asyncio.to_thread(sidecar.stop)
            else:
                sidecar.kill()
            await asyncio.gather(*readers)
        assert verify(config) == (0, f"{log_of(config)} is whole: {len(lines(config))} lines\n")
    older = [file for file in config.parent.glob("audit.jsonl.*") if file.suffix != ".head"]
    assert bool(older) == (rotates != "never")
    recorded = [line for line in lines(config) if line.get("rpc") == "GetToken" and line["outcome"] == "OK"]
    assert {line["version"] for line in recorded} == set(answered)
    assert len(answered) <= len(recorded) <= len(answered) + 4 * 4  # what was answered, but not heard
    assert [line for line in lines(config) if line.get("event") == BROKEN_END["event"]] == []


async def until(answered: list[str], count: int) -> None:
    async def so_many() -> bool:
        return len(answered) >= count

    await eventually(so_many)


def shift(log: Path) -> None:
    """As logrotate does it: the newest of the older files is .1."""
    numbers = sorted((int(f.suffix[1:]) for f in log.parent.glob("audit.jsonl.[0-9]*")), reverse=True)
    for number in numbers:
        log.with_name(f"{log.name}.{number}").rename(log.with_name(f"{log.name}.{number + 1}"))
    log.rename(log.with_name(f"{log.name}.1"))


async def test_tampering_is_found_in_every_position(config: Path, server: ScriptedServer) -> None:
    async with running(config) as sidecar, connect(sidecar) as bot:
        await delegate(bot, server, "acme", ALICE)
        for _ in range(10):
            await bot.get_token("acme", **ALICE)
    log, attested = log_of(config), config.with_name("audit.jsonl.head")
    whole = log.read_text().splitlines(keepends=True)
    ways: dict[str, Callable[[int], list[str]]] = {
        "removed": lambda i: whole[:i] + whole[i + 1 :],
        "changed": lambda i: [*whole[:i], whole[i].replace("bot", "bat", 1), *whole[i + 1 :]],
        "moved": lambda i: [*whole[:i], *reversed(whole[i : i + 2]), *whole[i + 2 :]],
        "doubled": lambda i: [*whole[: i + 1], *whole[i:]],
        "cut off": lambda i: whole[:i],
    }
    for (name, way), position in itertools.product(ways.items(), range(len(whole))):
        tampered = way(position)
        if tampered == whole:  # the last one cannot be moved on
            continue
        log.write_text("".join(tampered))
        code, text = verify(config)
        assert code == 2, (name, position)
        at_the_end = tampered == whole[: len(tampered)]
        first = position + (2 if name == "doubled" else 1)
        where = "lines were cut off its end" if at_the_end else f"audit.jsonl line {first}: "
        assert where in text, (name, position)
    log.write_text("".join(whole))
    assert verify(config)[0] == 0
    head = attested.read_bytes()
    for spoilt in (log, attested):
        content = spoilt.read_bytes()
        spoilt.unlink()
        assert verify_as_process(config)[0] == 2
        spoilt.write_bytes(content)
    attested.write_bytes(head[:-1] + bytes([head[-1] ^ 1]))
    assert verify(config)[0] == 2
    attested.write_bytes(head)
    kek = config.with_name("kek").read_bytes()
    config.with_name("kek").write_bytes(b"A" * 43 + b"=\n")
    assert verify(config)[0] == 2
    config.with_name("kek").write_bytes(kek)
    assert verify(config)[0] == 0


async def test_lines_cut_off_while_it_is_stopped_are_noted_at_the_next_start(
    config: Path, server: ScriptedServer
) -> None:
    async with running(config) as sidecar, connect(sidecar) as bot:
        await delegate(bot, server, "acme", ALICE)
    log = log_of(config)
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    assert verify(config)[0] == 2
    async with running(config):
        pass
    assert lines(config)[-1]["event"] == BROKEN_END["event"]


# A destination that is not there


def limit(process: SidecarProcess, size: int) -> None:
    """No file of the process may grow beyond this: what a full disk is to it."""
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, hard))


async def test_what_cannot_be_recorded_is_not_released(config: Path, server: ScriptedServer) -> None:
    async with running(config) as sidecar, connect(sidecar) as bot:
        await delegate(bot, server, "acme", ALICE)
        token = await bot.get_token("acme", **ALICE)
        limit(sidecar, log_of(config).stat().st_size)
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="audit log cannot be written") as refused:
                await bot.get_token("acme", **ALICE)
            assert refused.value.code is grpc.StatusCode.UNAVAILABLE
            assert refused.value.retry_after
        with pytest.raises(GrantNotFound):  # a refusal releases nothing
            await bot.get_token("acme", consumer="nobody")
        limit(sidecar, resource.RLIM_INFINITY)
        assert await bot.get_token("acme", **ALICE) == token
        (note,) = (line for line in lines(config) if "event" in line)
        assert (note["event"], note["lines"] >= 4) == (UNWRITTEN, True)
    assert verify(config)[0] == 0


async def test_unless_the_configuration_says_so(config: Path, server: ScriptedServer) -> None:
    change(config, "audit", fail_closed=False)
    async with running(config) as sidecar, connect(sidecar) as bot:
        await delegate(bot, server, "acme", ALICE)
        token = await bot.get_token("acme", **ALICE)
        before = len(lines(config))
        limit(sidecar, 0)  # and its own log may be full as well
        for _ in range(5):
            assert await bot.get_token("acme", **ALICE) == token
        limit(sidecar, resource.RLIM_INFINITY)
        assert await bot.get_token("acme", **ALICE) == token
        note, line = lines(config)[before:]
        assert (note["event"], note["lines"]) == (UNWRITTEN, 5)
        assert line["outcome"] == "OK"
        await says(sidecar, "audit_written_again")
    assert verify(config)[0] == 0


async def test_the_log_says_that_it_cannot_be_written(config: Path, server: ScriptedServer) -> None:
    async with running(config) as sidecar, connect(sidecar) as bot:
        await delegate(bot, server, "acme", ALICE)
        while log_of(config).stat().st_size <= sidecar.stderr.stat().st_size + 10_000:
            await bot.get_token("acme", **ALICE)
        limit(sidecar, log_of(config).stat().st_size)
        with pytest.raises(StoreUnavailable):
            await bot.get_token("acme", **ALICE)
        told = await says(sidecar, "audit_unwritable")
        assert str(log_of(config)) in told["problem"]
        assert told["level"] == "error"
        limit(sidecar, resource.RLIM_INFINITY)


async def test_where_it_cannot_be_opened_nothing_starts(config: Path) -> None:
    change(config, "audit", path="nowhere/audit.jsonl")
    sidecar = SidecarProcess(config)
    with pytest.raises(CannotStart, match=r"nowhere/audit\.jsonl cannot be written: No such file"):
        sidecar.start()
    assert sidecar.returncode == 2


async def test_a_second_sidecar_needs_a_log_of_its_own(config: Path, tmp_path: Path) -> None:
    async with running(config) as first:
        second = SidecarProcess(config, logs=tmp_path)
        with pytest.raises(CannotStart, match="another process's: give each sidecar a log of its own"):
            await asyncio.to_thread(second.start)
        assert second.returncode == 2
        first.kill()
        async with running(config, logs=tmp_path):  # whoever is killed keeps no lock
            pass


async def test_verify_says_what_there_is_to_verify(config: Path) -> None:
    assert verify(config)[0] == 2  # nothing was ever recorded
    configuration = Configuration(config)
    del configuration.content["audit"]
    configuration.write()
    code, text = verify(config)
    assert code == 2
    assert "no audit log is kept" in text
