"""Policy: no entry means no."""

import pytest

from tokenvault_sidecar.core.errors import PolicyDenied, UnknownCaller
from tokenvault_sidecar.core.model import ContextKind
from tokenvault_sidecar.core.policy import Allow, Call, Caller, Policy, Rpc

BOTH = frozenset(ContextKind)
BOT = Caller(
    "bot",
    frozenset({"spiffe://test/bot"}),
    (Allow(frozenset(Rpc), None, BOTH, id_token=True, keeps_session_alive=True),),
)
SERVICE = Caller(
    "service",
    frozenset({"spiffe://test/service", "service.test"}),
    (
        Allow(
            frozenset({Rpc.GET_TOKEN}),
            frozenset({"acme"}),
            frozenset({ContextKind.CONSUMER}),
            frozenset({"api:read"}),
        ),
        Allow(frozenset({Rpc.INVALIDATE}), frozenset({"other"}), BOTH),
    ),
)
NOBODY = Caller("nobody", frozenset({"nobody.test"}), ())
POLICY = Policy([BOT, SERVICE, NOBODY])
CONSUMER, CHAT = ContextKind.CONSUMER, ContextKind.CONVERSATION


def test_a_caller_is_found_by_each_of_its_identities() -> None:
    assert POLICY.caller("spiffe://test/bot") is BOT
    assert POLICY.caller("service.test") is SERVICE
    for unknown in ("", "spiffe://test/bot/more", "SPIFFE://test/bot", "test"):
        with pytest.raises(UnknownCaller):
            POLICY.caller(unknown)


def test_a_path_stands_for_all_below_it_and_for_nothing_else() -> None:
    bots = Caller("bots", frozenset({"spiffe://test/bots/*"}), ())
    one = Caller("one", frozenset({"spiffe://test/bots/one"}), ())
    policy = Policy([bots, one])
    assert policy.caller("spiffe://test/bots/one") is one
    for below in ("two", "two/three", "..two", "a.b-c_d"):
        assert policy.caller(f"spiffe://test/bots/{below}") is bots
    for other in (
        "spiffe://test/bots",
        "spiffe://test/bots/",
        "spiffe://test/bots/*",
        "spiffe://test/bots/../admin",
        "spiffe://test/bots/two/..",
        "spiffe://test/bots/./two",
        "spiffe://test/bots//two",
        "spiffe://test/bots/two/",
        "spiffe://test/bots/two\n",
        "spiffe://test/bots/t wo",
        "spiffe://test/botsy/two",
        "spiffe://tes/bots/two",
    ):
        with pytest.raises(UnknownCaller):
            policy.caller(other)


@pytest.mark.parametrize(
    ("caller", "call", "allowed"),
    [
        (BOT, Call(Rpc.GET_TOKEN, "any", CHAT, ("x",), id_token=True), True),
        (BOT, Call(Rpc.COMPLETE_DELEGATION), True),
        (SERVICE, Call(Rpc.GET_TOKEN, "acme", CONSUMER), True),
        (SERVICE, Call(Rpc.GET_TOKEN, "acme", CONSUMER, ("api:read",)), True),
        (SERVICE, Call(Rpc.GET_TOKEN, "acme", CONSUMER, ("api:read", "api:write")), False),
        (SERVICE, Call(Rpc.GET_TOKEN, "acme", CONSUMER, id_token=True), False),
        (SERVICE, Call(Rpc.GET_TOKEN, "acme", CHAT), False),
        (SERVICE, Call(Rpc.GET_TOKEN, "other", CONSUMER), False),
        (SERVICE, Call(Rpc.INVALIDATE, "other", CHAT), True),
        (SERVICE, Call(Rpc.INVALIDATE, "acme", CONSUMER), False),
        (SERVICE, Call(Rpc.COMPLETE_DELEGATION), False),
        (SERVICE, Call(Rpc.START_DELEGATION, "acme", CONSUMER), False),
        (NOBODY, Call(Rpc.GET_TOKEN, "acme", CONSUMER), False),
        (NOBODY, Call(Rpc.COMPLETE_DELEGATION), False),
    ],
)
def test_check(caller: Caller, call: Call, allowed: bool) -> None:
    if allowed:
        assert Policy.check(caller, call) in caller.allows
    else:
        with pytest.raises(PolicyDenied, match=caller.name):
            Policy.check(caller, call)
