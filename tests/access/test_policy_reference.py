"""Policy against a second, naive opinion of what a configuration allows; and what a refusal tells."""

import random
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.message import Message

from tests.access.steering import channel
from tests.authserver.scripted import ScriptedServer
from tests.e2e.scripted import consent, delegate, issuing, scripted_brand, token_path
from tests.e2e.vaults import OTHER_BOT, SERVICE, STRANGER, Whose, connect, make_vault, running
from tests.running import SidecarProcess
from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault.v1.token_vault_pb2_grpc import TokenVaultStub
from tokenvault_sidecar.config.callers import AllowTable
from tokenvault_sidecar.core.errors import PolicyDenied, UnknownCaller
from tokenvault_sidecar.core.model import ContextKind
from tokenvault_sidecar.core.policy import Call, Caller, Policy, Rpc

POLICIES, CALLS = 10_000, 10

RPCS = [rpc.value for rpc in Rpc]
BRANDS = ["acme", "globex", "initech"]
KINDS = ["consumer", "conversation"]
SCOPES = ["openid", "orders:read", "orders:write"]


def some(random: random.Random, values: list[str], *, any_of_them: float = 0.0) -> list[str]:
    if random.random() < any_of_them:
        return ["*"]
    return random.sample(values, random.randint(1, len(values)))


def entry(random: random.Random) -> dict[str, Any]:
    """An `[[callers.NAME.allow]]` table; keys that have a default may be left out."""
    table: dict[str, Any] = {
        "rpcs": some(random, RPCS),
        "brands": some(random, BRANDS, any_of_them=0.3),
        "contexts": some(random, KINDS),
    }
    optional = {
        "scopes": some(random, SCOPES, any_of_them=0.3),
        "id_token": random.random() < 0.5,
        "keeps_session_alive": random.random() < 0.5,
    }
    return table | {key: value for key, value in optional.items() if random.random() < 0.7}


def call(random: random.Random) -> Call:
    return Call(
        Rpc(random.choice(RPCS)),
        random.choice([*BRANDS, "nobody", None]),
        random.choice([*map(ContextKind, KINDS), None]),
        tuple(random.sample(SCOPES, random.choice([0, 0, 1, 2]))),
        id_token=random.random() < 0.3,
    )


def reference(entries: list[dict[str, Any]], call: Call) -> int | None:
    """The first entry that names, point by point, what is wanted; None where none does."""
    brands = [*BRANDS, "nobody"]
    wanted = list(
        product(
            [call.rpc.value],
            [call.brand] if call.brand else brands,
            [call.kind.value] if call.kind else KINDS,
            call.scopes or ["no scope"],
            [call.id_token],
        )
    )
    for number, table in enumerate(entries):
        points = set(
            product(
                table["rpcs"],
                brands if "*" in table["brands"] else table["brands"],
                table["contexts"],
                ["no scope", *(SCOPES if "*" in table.get("scopes", ["*"]) else table["scopes"])],
                [False, True] if table.get("id_token", False) else [False],
            )
        )
        named = [point for point in wanted if point in points]
        # Of brands and kinds that the call does not say, one is enough; of its scopes, all are needed.
        if named and {point[3] for point in named} == {point[3] for point in wanted}:
            return number
    return None


@pytest.mark.parametrize("seed", range(4))
def test_random_policies_allow_what_the_reference_allows(seed: int) -> None:
    chance = random.Random(seed)
    allowed = denied = 0
    for _ in range(POLICIES // 4):
        entries = [entry(chance) for _ in range(chance.randint(0, 4))]
        allows = tuple(AllowTable.model_validate(table).to_allow() for table in entries)
        caller = Caller("somebody", frozenset(), allows)
        for _ in range(CALLS):
            wish = call(chance)
            expected = reference(entries, wish)
            if expected is None:
                denied += 1
                with pytest.raises(PolicyDenied):
                    Policy.check(caller, wish)
                continue
            allowed += 1
            given, table = Policy.check(caller, wish), entries[expected]
            assert given is allows[expected]
            assert given.keeps_session_alive == table.get("keeps_session_alive", False)
            assert given.scopes == (None if "*" in table.get("scopes", ["*"]) else set(table["scopes"]))
    assert min(allowed, denied) > 1000


def valid_ids(chance: random.Random) -> str:
    if chance.random() < 0.2:
        return chance.choice(["bots.test", "service.test"])
    path = [chance.choice(["bots", "one", "two"]) for _ in range(chance.randint(1, 3))]
    return f"spiffe://{chance.choice(['test', 'other'])}/" + "/".join(path)


def shown_ids(chance: random.Random) -> str:
    path = [chance.choice(["bots", "bots", "one", "two", "x", "..", ".", "", "*"]) for _ in range(4)]
    spoilt = f"spiffe://{chance.choice(['test', 'other'])}/" + "/".join(path[: chance.randint(1, 4)])
    return chance.choice([valid_ids(chance), spoilt, "", "spiffe://test", "test", "*"])


def reference_caller(callers: list[tuple[str, list[str]]], shown: str) -> str | None:
    """Whose identity this is, literally; else whose path it is below, segment by segment."""
    for name, identities in callers:
        if shown in identities and not shown.endswith("*"):
            return name
    for name, identities in callers:
        for identity in identities:
            above, below = identity.split("/"), shown.split("/")
            if above[-1] != "*" or below[: len(above) - 1] != above[:-1] or len(below) < len(above):
                continue
            rest = below[len(above) - 1 :]
            if all(re.fullmatch("[A-Za-z0-9._-]+", part) and part not in (".", "..") for part in rest):
                return name
    return None


def test_random_identities_are_whose_the_reference_says() -> None:
    chance = random.Random(2026)
    known = unknown = 0
    for _ in range(POLICIES):
        taken: set[str] = set()
        callers: list[tuple[str, list[str]]] = []
        for name in ("one", "two", "three"):
            own = {valid_ids(chance) for _ in range(chance.randint(1, 3))}
            own |= {f"{i}/*" for i in own if i.startswith("spiffe:") and chance.random() < 0.5}
            callers.append((name, sorted(own - taken)))
            taken |= own
        policy = Policy(Caller(name, frozenset(identities), ()) for name, identities in callers)
        for shown in (shown_ids(chance) for _ in range(CALLS)):
            try:
                found: str | None = policy.caller(shown).name
            except UnknownCaller:
                found = None
            assert found == reference_caller(callers, shown), (callers, shown)
            known, unknown = known + (found is not None), unknown + (found is None)
    assert min(known, unknown) > 1000


# What a refusal tells of what exists: nothing.

in_one_loop = pytest.mark.asyncio(loop_scope="module")

THERE, CHAT = Whose(consumer="there"), Whose(conversation="chat-there")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        for name in ("acme", "globex"):
            server.on(token_path(name), issuing(server))
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sidecar(
    server: ScriptedServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[SidecarProcess]:
    brands = {name: scripted_brand(server, name) for name in ("acme", "globex")}
    service = {
        "identities": [f"spiffe://tokenvault.test/{SERVICE}"],
        "allow": [{"rpcs": ["GetToken"], "brands": ["acme"], "contexts": ["consumer"], "scopes": ["openid"]}],
    }
    config = make_vault(tmp_path_factory.mktemp("vault"), brands, callers={SERVICE: service})
    async with running(config) as process:
        async with connect(process) as bot:
            for name, whose in product(brands, (THERE, CHAT)):
                await delegate(bot, server, name, whose)
        yield process


@dataclass(frozen=True)
class Refusal:
    """All that a caller can tell one refusal from another by, but for time."""

    code: grpc.StatusCode
    message: str | None
    metadata: tuple[tuple[str, object], ...]


async def refusal(sidecar: SidecarProcess, caller: str, rpc: str, request: Message) -> Refusal:
    async with channel(sidecar, caller) as open_channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(TokenVaultStub(open_channel), rpc)(
                request, timeout=30, metadata=(("x-request-id", "the-same"),)
            )
    error = caught.value
    told: list[Any] = [*error.initial_metadata(), *error.trailing_metadata()]
    return Refusal(error.code(), error.details(), tuple((key, value) for key, value in told))


def contexts() -> Iterator[pb.Context]:
    for consumer in ("there", "nowhere"):
        yield pb.Context(consumer=pb.ConsumerContext(consumer_id=consumer))
    for chat in ("chat-there", "chat-nowhere"):
        yield pb.Context(conversation=pb.ConversationContext(conversation_id=chat))


CONFIGURED_AND_NOT = ("globex", "no-such-brand")
REQUESTS: dict[tuple[str, str], list[Message]] = {
    # Of "acme" the brand service may read consumers' tokens, all else is refused.
    ("GetToken", SERVICE): [
        *(pb.GetTokenRequest(brand_id=b, context=c) for b, c in product(CONFIGURED_AND_NOT, contexts())),
        *(pb.GetTokenRequest(brand_id="acme", context=c) for c in contexts() if c.HasField("conversation")),
        *(
            pb.GetTokenRequest(brand_id="acme", context=c, scopes=["orders"])
            for c in contexts()
            if c.HasField("consumer")
        ),
        *(
            pb.GetTokenRequest(brand_id="acme", context=c, include_id_token=True)
            for c in contexts()
            if c.HasField("consumer")
        ),
    ],
    ("StartDelegation", SERVICE): [
        pb.StartDelegationRequest(brand_id=b, context=c)
        for b, c in product(("acme", *CONFIGURED_AND_NOT), contexts())
    ],
    ("Invalidate", SERVICE): [
        pb.InvalidateRequest(brand_id=b, context=c)
        for b, c in product(("acme", *CONFIGURED_AND_NOT), contexts())
    ],
    ("GetToken", STRANGER): [
        pb.GetTokenRequest(brand_id=b, context=c)
        for b, c in product(("acme", *CONFIGURED_AND_NOT), contexts())
    ],
}


@in_one_loop
@pytest.mark.parametrize(("rpc", "caller"), REQUESTS, ids=["-".join(key) for key in REQUESTS])
async def test_refusals_look_alike_whatever_exists(sidecar: SidecarProcess, rpc: str, caller: str) -> None:
    refusals = {await refusal(sidecar, caller, rpc, request) for request in REQUESTS[rpc, caller]}
    assert len(refusals) == 1
    assert refusals.pop().code is grpc.StatusCode.PERMISSION_DENIED


@in_one_loop
@pytest.mark.parametrize(
    ("caller", "code"),
    [(SERVICE, grpc.StatusCode.PERMISSION_DENIED), (OTHER_BOT, grpc.StatusCode.NOT_FOUND)],
)
async def test_another_callers_state_looks_like_none(
    sidecar: SidecarProcess, server: ScriptedServer, caller: str, code: grpc.StatusCode
) -> None:
    async with connect(sidecar) as bot:
        pending = consent(server, await bot.start_delegation("acme", conversation="chat-pending"))
        refusals = {
            await refusal(sidecar, caller, "CompleteDelegation", pb.CompleteDelegationRequest(**response))
            for response in (pending, pending | {"state": "x" * 43}, pending | {"iss": "https://other.test"})
        }
        assert len(refusals) == 1
        assert refusals.pop().code is code
        await bot.complete_delegation(pending)
