"""What a bot developer sees: names, signatures, reprs, and the README."""

import inspect
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # typed, but unmarked

import tokenvault
from tests.authserver import clients
from tests.authserver.oidc import OidcProvider
from tests.client.conftest import Files
from tests.client.fake_vault import FakeVault
from tests.client.test_connection import set_environment
from tokenvault import AsyncTokenVaultClient, Challenge, Confirmation, Delegated, Token, TokenVaultClient
from tokenvault.v1 import token_vault_pb2 as pb

README = Path(tokenvault.__file__).parents[1] / "README.md"
SERVICE = pb.DESCRIPTOR.services_by_name["TokenVault"]
NOW = datetime(2026, 11, 23, tzinfo=UTC)


def public(client: type) -> dict[str, inspect.Signature]:
    names = {name for name in vars(client) if not name.startswith("_")} | {"__init__"}
    return {name: inspect.signature(getattr(client, name)) for name in names}


def test_the_twins_have_the_same_methods_and_signatures() -> None:
    ours, twins = public(TokenVaultClient), public(AsyncTokenVaultClient)
    assert str(twins.pop("token_source")).replace("Async", "").replace("source.", "") == str(
        ours.pop("token_source")
    ).replace("source.", "")
    assert ours == twins
    rpcs = {re.sub("(?<=.)([A-Z])", r"_\1", name).lower() for name in SERVICE.methods_by_name}
    assert set(ours) == {"__init__", "from_environment", "close", "challenge"} | rpcs


def test_the_twins_differ_by_await_only() -> None:
    for name, method in vars(AsyncTokenVaultClient).items():
        if inspect.iscoroutinefunction(method):
            twin = name.replace("__a", "__")
            assert not inspect.iscoroutinefunction(getattr(TokenVaultClient, twin))
            assert awaitless(method) == awaitless(getattr(TokenVaultClient, twin))


def awaitless(method: object) -> str:
    assert inspect.isfunction(method)
    source = re.sub(r'""".*?"""', "", inspect.getsource(method), flags=re.DOTALL)
    return re.sub(r"\b(async|await) |\baio\.|(?<=__)a(?=enter|exit)", "", source)


def test_everything_public_is_documented_and_exported() -> None:
    for name in tokenvault.__all__:
        assert getattr(tokenvault, name).__doc__, name
    for kind in vars(tokenvault.errors).values():
        if isinstance(kind, type) and kind.__module__ == "tokenvault.errors":
            assert kind.__name__ in tokenvault.__all__
            assert kind.__name__ in (tokenvault.errors.__doc__ or "") or not issubclass(kind, Exception)


def test_secrets_and_people_are_in_no_repr() -> None:
    answers = [
        Challenge("d-1", "https://as.example/?state=s3cret", NOW),
        Token("s3cret-access", "Bearer", NOW, ("orders",), "v1", "s3cret-id", degraded=False),
        Delegated("acme", "s3cret-consumer", None, ("orders",), "s3cret-subject", NOW, NOW),
        Delegated("acme", None, "s3cret-conversation", ("orders",), None, NOW, None),
        Delegated("acme", None, None, (), None, NOW, None, Confirmation("s3cret-code", NOW)),
        Confirmation("s3cret-code", NOW),
    ]
    for answer in answers:
        assert "s3cret" not in f"{answer!r} {answer}"
        assert type(answer).__name__ in repr(answer)


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def consent_required(*details: Message) -> status_pb2.Status:
    code = grpc.StatusCode.FAILED_PRECONDITION
    status = status_pb2.Status(code=code.value[0], message="challenge the consumer")
    info = error_details_pb2.ErrorInfo(reason="CONSENT_REQUIRED", domain="tokenvault.v1")
    for detail in (info, *details):
        status.details.add().Pack(detail)
    return status


def test_the_readme_s_first_snippet(
    address: str, files: Files, fake: FakeVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, address, files)
    links = [f"https://as.example/authorize?state={n}" for n in (1, 2)]
    fake.answers.extend(
        [
            consent_required(),
            pb.StartDelegationResponse(authorization_url=links[0]),
            pb.CompleteDelegationResponse(brand_id="acme"),
            pb.GetTokenResponse(access_token="s3cret", token_type="Bearer"),
            consent_required(),
            pb.StartDelegationResponse(authorization_url=links[1]),
        ]
    )
    bot: dict[str, Any] = {"look_up": lambda headers: f"called with {headers}"}
    exec(compile(snippets()[0], README, "exec"), bot)
    with bot["vault"]:
        assert bot["answer"]("c-42") == f"Please log in first: {links[0]}"
        assert "Thank you" in bot["on_redirect"]({"state": "1", "code": "c", "iss": "https://as.example"})
        assert bot["answer"]("c-42") == "called with {'Authorization': 'Bearer s3cret'}"
        assert bot["answer"]("c-42") == f"Please log in first: {links[1]}"
    assert [type(request).__name__ for request in fake.requests] == [
        "GetTokenRequest", "StartDelegationRequest", "CompleteDelegationRequest",
        "GetTokenRequest", "GetTokenRequest", "StartDelegationRequest",
    ]  # fmt: skip


async def test_the_readme_s_asyncio_snippet(
    address: str, files: Files, fake: FakeVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, address, files)
    fake.answers.append(pb.InvalidateResponse(revocation=pb.REVOCATION_QUEUED))
    bot: dict[str, Any] = {}
    exec(compile(snippets()[1], README, "exec"), bot)
    await bot["forget"]("alice")
    alice = pb.Context(consumer=pb.ConsumerContext(consumer_id="alice"))
    assert fake.requests == [pb.InvalidateRequest(brand_id="acme", context=alice)]


def test_the_readme_s_snippet_with_client_credentials(
    address: str, files: Files, fake: FakeVault, oidc_provider: OidcProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, address, files)
    monkeypatch.setenv("TOKEN_ENDPOINT", oidc_provider.token_endpoint)
    monkeypatch.setenv("CLIENT_ID", clients.SERVICE.client_id)
    monkeypatch.setenv("CLIENT_SECRET", clients.SERVICE.secret or "")
    fake.answers.append(pb.GetTokenResponse(access_token="s3cret", token_type="Bearer"))
    service: dict[str, Any] = {"look_up": lambda headers: f"called with {headers}"}
    exec(compile(snippets()[2], README, "exec"), service)
    with service["vault"]:
        assert service["orders_of"]("alice") == "called with {'Authorization': 'Bearer s3cret'}"
    [[shown]] = fake.shown
    assert shown.startswith("Bearer ey")


def test_the_readme_s_snippet_that_waits(address: str, files: Files, fake: FakeVault) -> None:
    ended = (pb.DELEGATION_STATUS_COMPLETED, pb.DELEGATION_STATUS_DENIED, pb.DELEGATION_STATUS_EXPIRED)
    reasons = (0, 6, 0)  # ERROR_REASON_AUTHORIZATION_DENIED
    for status, reason in zip(ended, reasons, strict=True):
        fake.answers.append(pb.StartDelegationResponse(delegation_id="d", authorization_url="https://as"))
        fake.answers.append([pb.WatchDelegationResponse(status=status, reason=reason)])  # type: ignore[arg-type]  # a number will do
    (snippet,) = [text for text in snippets() if "def log_in(" in text]
    said: list[str] = []
    with TokenVaultClient(address, **files.parameters()) as vault:
        bot: dict[str, Any] = {"vault": vault, "say": said.append}
        exec(compile(snippet, README, "exec"), bot)
        answers = [bot["log_in"]("c-42") for _ in ended]
    assert answers == ["You are logged in.", "You declined.", "That took too long."]
    assert said == ["Please log in: https://as"] * 3


def test_the_readme_s_snippet_that_asks_for_the_code(address: str, files: Files, fake: FakeVault) -> None:
    fake.answers.append(pb.StartDelegationResponse(delegation_id="d", authorization_url="https://as"))
    fake.answers.append([pb.WatchDelegationResponse(status=pb.DELEGATION_STATUS_AWAITING_CONFIRMATION)])
    fake.answers.append(pb.ConfirmDelegationResponse())
    (snippet,) = [text for text in snippets() if "def log_in_by_code(" in text]
    said: list[str] = []
    with TokenVaultClient(address, **files.parameters()) as vault:
        bot: dict[str, Any] = {"vault": vault, "say": said.append, "ask": lambda question: "1234 5678"}
        exec(compile(snippet, README, "exec"), bot)
        assert bot["log_in_by_code"]("c-42") == "You are logged in."
    assert fake.requests[-1] == pb.ConfirmDelegationRequest(delegation_id="d", confirmation_code="1234 5678")


def test_the_readme_names_every_variable_and_no_unknown_error() -> None:
    text = README.read_text()
    for variable in ("TOKENVAULT_ADDRESS", "TOKENVAULT_CA", "TOKENVAULT_CERT", "TOKENVAULT_KEY"):
        assert variable in text
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    table = prose[prose.index("| catch |") :]
    named = re.findall(r"`([A-Z][A-Za-z]+)`", table)
    assert len(named) > 5
    assert set(named) <= set(tokenvault.__all__)
