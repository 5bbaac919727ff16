"""Every request's fields: what is let through, what is refused, and under which name."""

from collections.abc import Mapping
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from tests.api.running import consumer, conversation
from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault_sidecar.api import requests
from tokenvault_sidecar.core.challenges import DelegationRequest
from tokenvault_sidecar.core.errors import InvalidRequest
from tokenvault_sidecar.core.exchange import AuthorizationResponse
from tokenvault_sidecar.core.model import Context, ContextKind, Secret
from tokenvault_sidecar.core.policy import Allow, Rpc
from tokenvault_sidecar.core.tokens import TokenRequest

ALLOW = Allow(
    rpcs=frozenset(Rpc),
    brands=None,
    contexts=frozenset(ContextKind),
    scopes=frozenset({"a", "b"}),
    keeps_session_alive=True,
)
CONSUMER_ID = "context.consumer.consumer_id"
CONVERSATION_ID = "context.conversation.conversation_id"


def read(message: type, fields: Mapping[str, Any]) -> object:
    """Convert a request as the servicer does, from what was valid but for `fields`."""
    valid: dict[str, Any] = {"brand_id": "acme", "context": consumer()}
    if message is pb.CompleteDelegationRequest:
        valid = {"state": "a state", "code": "a code"}
    request = message(**{**valid, **fields})
    # As off the wire: what cannot be sent is not worth a check.
    request = message.FromString(request.SerializeToString())  # type: ignore[attr-defined]
    if message is pb.StartDelegationRequest:
        return requests.delegation_request(request, "bot")
    if message is pb.CompleteDelegationRequest:
        return requests.authorization_response(request)
    if message is pb.GetTokenRequest:
        brand, context = requests.brand_and_context(request)
        return requests.token_request(request, brand, context, requests.scopes(request), ALLOW)
    return requests.brand_and_context(request)


START, COMPLETE, GET, INVALIDATE = (
    pb.StartDelegationRequest,
    pb.CompleteDelegationRequest,
    pb.GetTokenRequest,
    pb.InvalidateRequest,
)


@pytest.mark.parametrize("message", [START, GET, INVALIDATE])
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"brand_id": ""}, "brand_id"),
        ({"brand_id": "a" * 65}, "brand_id"),
        ({"brand_id": "a b"}, "brand_id"),
        ({"brand_id": "../acme"}, "brand_id"),
        ({"brand_id": "acme\n"}, "brand_id"),
        ({"context": None}, "context"),
        ({"context": pb.Context()}, "context"),
        ({"context": consumer("")}, CONSUMER_ID),
        ({"context": consumer("a" * 257)}, CONSUMER_ID),
        ({"context": consumer("ö" * 129)}, CONSUMER_ID),
        ({"context": consumer("😀" * 65)}, CONSUMER_ID),
        ({"context": consumer("a\x00")}, CONSUMER_ID),
        ({"context": consumer("a\n")}, CONSUMER_ID),
        ({"context": consumer("a\x7f")}, CONSUMER_ID),
        ({"context": consumer("a\x85")}, CONSUMER_ID),
        ({"context": consumer("a\u2028")}, CONSUMER_ID),
        ({"context": consumer("a\u2029")}, CONSUMER_ID),
        ({"context": consumer("a\u202eb")}, CONSUMER_ID),
        ({"context": consumer("a\u2066b")}, CONSUMER_ID),
        ({"context": consumer("\ufeffa")}, CONSUMER_ID),
        ({"context": conversation("")}, CONVERSATION_ID),
        ({"context": conversation("a" * 257)}, CONVERSATION_ID),
        ({"context": conversation("a\x1b")}, CONVERSATION_ID),
    ],
)
def test_whose_tokens_must_be_clear(message: type, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(message, fields)
    assert caught.value.field == field


@pytest.mark.parametrize("message", [START, GET])
@pytest.mark.parametrize(
    ("scopes", "field"),
    [
        (["openid", ""], "scopes[1]"),
        (["open id"], "scopes[0]"),
        (['"openid"'], "scopes[0]"),
        (["open\\id"], "scopes[0]"),
        (["ö"], "scopes[0]"),
        (["openid\n"], "scopes[0]"),
        (["a" * 257], "scopes[0]"),
        ([f"s{n}" for n in range(65)], "scopes"),
    ],
)
def test_scopes_are_scope_tokens(message: type, scopes: list[str], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(message, {"scopes": scopes})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("message", "fields", "field"),
    [
        (START, {"redirect_uri": "https://a.example/" + "a" * 2048}, "redirect_uri"),
        (START, {"redirect_uri": "https://a.example/\r\n"}, "redirect_uri"),
        (START, {"expected_subject": "a" * 257}, "expected_subject"),
        (START, {"expected_subject": "a\x00"}, "expected_subject"),
        (START, {"expected_subject": "a", "context": conversation()}, "expected_subject"),
        (START, {"authorization_parameters": {"": "x"}}, "authorization_parameters"),
        (START, {"authorization_parameters": {"a&b": "x"}}, "authorization_parameters"),
        (START, {"authorization_parameters": {"a" * 65: "x"}}, "authorization_parameters"),
        (START, {"authorization_parameters": {"prompt": ""}}, "authorization_parameters.prompt"),
        (START, {"authorization_parameters": {"prompt": "a\n"}}, "authorization_parameters.prompt"),
        (START, {"authorization_parameters": {"prompt": "a" * 1025}}, "authorization_parameters.prompt"),
        (START, {"authorization_parameters": {f"p{n}": "x" for n in range(17)}}, "authorization_parameters"),
        (COMPLETE, {"state": ""}, "state"),
        (COMPLETE, {"state": "a" * 513}, "state"),
        (COMPLETE, {"state": "a\x00"}, "state"),
        (COMPLETE, {"code": ""}, "code"),
        (COMPLETE, {"error": "access_denied"}, "code"),
        (COMPLETE, {"code": "a" * 4097}, "code"),
        (COMPLETE, {"code": "a\n"}, "code"),
        (COMPLETE, {"iss": "a" * 2049}, "iss"),
        (COMPLETE, {"iss": "a\x00"}, "iss"),
        (COMPLETE, {"code": "", "error": "a" * 257}, "error"),
        (COMPLETE, {"code": "", "error": "access\ndenied"}, "error"),
        (COMPLETE, {"code": "", "error": 'access"denied'}, "error"),
        (GET, {"min_ttl": Duration(seconds=-1)}, "min_ttl"),
        (GET, {"min_ttl": Duration(nanos=-1)}, "min_ttl"),
        (GET, {"min_ttl": Duration(seconds=3601)}, "min_ttl"),
        (GET, {"min_ttl": Duration(seconds=3600, nanos=1)}, "min_ttl"),
        (GET, {"min_ttl": Duration(seconds=1, nanos=-1)}, "min_ttl"),
        (GET, {"min_ttl": Duration(nanos=1_000_000_000)}, "min_ttl"),
        (GET, {"min_ttl": Duration(seconds=2**62)}, "min_ttl"),
        (GET, {"rejected_token_version": "a" * 129}, "rejected_token_version"),
        (GET, {"rejected_token_version": "v 1"}, "rejected_token_version"),
        (GET, {"rejected_token_version": "vö"}, "rejected_token_version"),
        (GET, {"include_id_token": True, "context": conversation()}, "include_id_token"),
    ],
)
def test_a_wrong_field_is_named(message: type, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(message, fields)
    assert caught.value.field == field


@pytest.mark.parametrize("message", [START, COMPLETE, GET, INVALIDATE])
def test_what_is_refused_is_not_repeated(message: type) -> None:
    canary = "canary"
    bad = f"{canary}\x00"
    for field in message.DESCRIPTOR.fields:  # type: ignore[attr-defined]
        fields: dict[str, Any] = {}
        if field.name == "context":
            fields["context"] = consumer(bad)
        elif field.name in ("scopes", "authorization_parameters"):
            fields[field.name] = [bad] if field.name == "scopes" else {bad: bad}
        elif field.type == field.TYPE_STRING and field.name != "error_description":
            fields[field.name] = bad
            if field.name == "error":
                fields["code"] = ""
        else:
            continue
        with pytest.raises(InvalidRequest) as caught:
            read(message, fields)
        assert canary not in str(caught.value)


@pytest.mark.parametrize("id_", ["a", "a" * 256, "ö" * 128, "日本語", "a b@c/d|e", "👩‍👩‍👧"])
def test_ids_are_any_text(id_: str) -> None:
    assert read(INVALIDATE, {"context": consumer(id_)}) == ("acme", Context(ContextKind.CONSUMER, id_))
    assert read(INVALIDATE, {"context": conversation(id_)}) == (
        "acme",
        Context(ContextKind.CONVERSATION, id_),
    )


def test_of_two_contexts_the_wire_keeps_the_last() -> None:
    both = consumer().SerializeToString() + conversation().SerializeToString()
    request = pb.InvalidateRequest(brand_id="acme", context=pb.Context.FromString(both))
    assert requests.brand_and_context(request)[1].kind is ContextKind.CONVERSATION


@pytest.mark.parametrize(
    ("span", "seconds"),
    [
        (None, 0.0),
        (Duration(), 0.0),
        (Duration(seconds=3600), 3600.0),
        (Duration(seconds=1, nanos=500_000_000), 1.5),
    ],
)
def test_min_ttl_in_seconds(span: Duration | None, seconds: float) -> None:
    wanted = read(GET, {"min_ttl": span})
    assert isinstance(wanted, TokenRequest)
    assert wanted.min_ttl == seconds


def test_a_whole_get_token_request() -> None:
    fields = {"scopes": ["b", "a", "b"], "rejected_token_version": "v1", "include_id_token": True}
    assert read(GET, fields) == TokenRequest(
        brand="acme",
        context=Context(ContextKind.CONSUMER, "alice"),
        scopes=("b", "a"),
        rejected_version="v1",
        include_id_token=True,
        keeps_session_alive=True,
        releasable=frozenset({"a", "b"}),
    )


def test_a_whole_start_delegation_request() -> None:
    fields = {
        "scopes": ["openid"],
        "redirect_uri": "https://a.example/back",
        "expected_subject": "somebody",
        "authorization_parameters": {"prompt": "login"},
    }
    context = Context(ContextKind.CONSUMER, "alice")
    assert read(START, fields) == DelegationRequest(
        brand="acme",
        context=context,
        caller="bot",
        scopes=("openid",),
        redirect_uri="https://a.example/back",
        expected_subject="somebody",
        parameters={"prompt": "login"},
    )
    assert read(START, {}) == DelegationRequest(brand="acme", context=context, caller="bot")


def test_an_authorization_response_has_a_code_or_an_error() -> None:
    state = Secret("a state")
    fields = {"iss": "https://as.example", "error_description": "\x00" * 9000}
    assert read(COMPLETE, fields) == AuthorizationResponse(
        state=state, code=Secret("a code"), iss="https://as.example", error=None
    )
    assert read(COMPLETE, {"code": "", "error": "access_denied"}) == AuthorizationResponse(
        state=state, code=None, iss=None, error="access_denied"
    )
