"""Every reason of the contract has its exception, from either client."""

import pickle
import traceback

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # typed, but unmarked

import tokenvault
from tests.client.fake_vault import FakeVault
from tokenvault import AsyncTokenVaultClient, InvalidRequest, TokenVaultError
from tokenvault.v1.error_reason_pb2 import ErrorReason

# reason: its exception, and whether that means "challenge the consumer"
CLASSES: dict[str, tuple[type[TokenVaultError], bool]] = {
    "GRANT_NOT_FOUND": (tokenvault.GrantNotFound, True),
    "CONSENT_REQUIRED": (tokenvault.GrantExpired, True),
    "SESSION_ENDED": (tokenvault.SessionEnded, True),
    "SCOPE_NOT_GRANTED": (tokenvault.ScopeNotGranted, False),
    "STATE_NOT_FOUND": (tokenvault.StateNotFound, False),
    "AUTHORIZATION_DENIED": (tokenvault.AuthorizationDenied, False),
    "CODE_REJECTED": (tokenvault.CodeRejected, False),
    "INVALID_ID_TOKEN": (tokenvault.InvalidIdToken, False),
    "ISSUER_MISMATCH": (tokenvault.IssuerMismatch, False),
    "SUBJECT_MISMATCH": (tokenvault.SubjectMismatch, False),
    "AS_UNAVAILABLE": (tokenvault.AuthorizationServerUnavailable, False),
    "AS_MISCONFIGURED": (tokenvault.AuthorizationServerMisconfigured, False),
    "UNKNOWN_CALLER": (tokenvault.UnknownCaller, False),
    "POLICY_DENIED": (tokenvault.PolicyDenied, False),
    "BEARER_INVALID": (tokenvault.BearerInvalid, False),
    "RATE_LIMITED": (tokenvault.RateLimited, False),
    "STORE_UNAVAILABLE": (tokenvault.StoreUnavailable, False),
    "INVALID_REQUEST": (tokenvault.InvalidRequest, False),
    "INTERNAL": (tokenvault.InternalError, False),
    "CONFIRMATION_REQUIRED": (tokenvault.ConfirmationRequired, False),
    "CONFIRMATION_CODE_WRONG": (tokenvault.ConfirmationCodeWrong, False),
}

REASONS = [
    name.removeprefix("ERROR_REASON_")
    for name, number in ErrorReason.items()
    if number  # 0 is never sent
]


def status(
    code: grpc.StatusCode, *details: Message, reason: str | None = None, domain: str = "tokenvault.v1"
) -> status_pb2.Status:
    given = status_pb2.Status(code=code.value[0], message="what happened – and what to do")
    if reason:
        details = (error_details_pb2.ErrorInfo(reason=reason, domain=domain), *details)
    for detail in details:
        packed = Packed()
        packed.Pack(detail)
        given.details.append(packed)
    return given


async def failure(
    vault: AsyncTokenVaultClient, fake: FakeVault, answer: status_pb2.Status
) -> TokenVaultError:
    fake.answers.append(answer)
    with pytest.raises(TokenVaultError) as raised:
        await vault.get_token("acme", conversation="c-42")
    return raised.value


@pytest.mark.parametrize("reason", REASONS)
async def test_every_reason_has_its_class(vault: AsyncTokenVaultClient, fake: FakeVault, reason: str) -> None:
    expected, challenge = CLASSES[reason]
    error = await failure(vault, fake, status(grpc.StatusCode.FAILED_PRECONDITION, reason=reason))
    assert type(error) is expected
    assert isinstance(error, tokenvault.ConsentRequired) is challenge
    assert error.reason == reason
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert error.message == str(error) == "what happened – and what to do"
    assert error.retry_after is None


def test_no_two_reasons_share_a_class_and_every_class_is_public() -> None:
    classes = [kind for kind, _ in CLASSES.values()]
    assert set(CLASSES) == set(REASONS)
    assert len(set(classes)) == len(classes)
    assert {kind.__name__ for kind in classes} <= set(tokenvault.__all__)


async def test_what_the_sidecar_tells_besides_the_reason(
    vault: AsyncTokenVaultClient, fake: FakeVault
) -> None:
    told = status(grpc.StatusCode.NOT_FOUND)
    info = error_details_pb2.ErrorInfo(reason="GRANT_NOT_FOUND", domain="tokenvault.v1", metadata={"k": "v"})
    told.details.add().Pack(info)
    assert (await failure(vault, fake, told)).metadata == {"k": "v"}


async def test_how_long_to_wait(vault: AsyncTokenVaultClient, fake: FakeVault) -> None:
    wait = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2, nanos=500_000_000))
    error = await failure(vault, fake, status(grpc.StatusCode.UNAVAILABLE, wait, reason="AS_UNAVAILABLE"))
    assert isinstance(error, tokenvault.Unavailable)
    assert error.retry_after == 2.5


async def test_which_field_is_at_fault(vault: AsyncTokenVaultClient, fake: FakeVault) -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="brand_id", description="is required")
    bad = error_details_pb2.BadRequest(field_violations=[violation])
    error = await failure(
        vault, fake, status(grpc.StatusCode.INVALID_ARGUMENT, bad, reason="INVALID_REQUEST")
    )
    assert isinstance(error, InvalidRequest)
    assert error.field_violations == (tokenvault.FieldViolation("brand_id", "is required"),)


BY_CODE = {
    grpc.StatusCode.UNAVAILABLE: tokenvault.Unavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: tokenvault.RateLimited,
    grpc.StatusCode.PERMISSION_DENIED: tokenvault.AccessDenied,
    grpc.StatusCode.UNAUTHENTICATED: tokenvault.AccessDenied,
    grpc.StatusCode.INVALID_ARGUMENT: tokenvault.InvalidRequest,
    grpc.StatusCode.INTERNAL: tokenvault.InternalError,
    grpc.StatusCode.DEADLINE_EXCEEDED: tokenvault.DeadlineExceeded,
    grpc.StatusCode.UNIMPLEMENTED: TokenVaultError,
}


@pytest.mark.parametrize("code", BY_CODE)
async def test_a_reason_of_tomorrow_is_treated_by_its_code(
    vault: AsyncTokenVaultClient, fake: FakeVault, code: grpc.StatusCode
) -> None:
    error = await failure(vault, fake, status(code, reason="OUT_OF_COFFEE"))
    assert type(error) is BY_CODE[code]
    assert error.reason == "OUT_OF_COFFEE"


@pytest.mark.parametrize("code", BY_CODE)
async def test_a_status_without_reason_is_treated_by_its_code(
    vault: AsyncTokenVaultClient, fake: FakeVault, code: grpc.StatusCode
) -> None:
    error = await failure(vault, fake, status(code))
    expected = tokenvault.VaultUnreachable if code is grpc.StatusCode.UNAVAILABLE else BY_CODE[code]
    assert type(error) is expected
    assert error.reason is None


async def test_somebody_else_s_reason_is_none_of_ours(vault: AsyncTokenVaultClient, fake: FakeVault) -> None:
    answer = status(grpc.StatusCode.NOT_FOUND, reason="GRANT_NOT_FOUND", domain="other.example")
    error = await failure(vault, fake, answer)
    assert type(error) is TokenVaultError
    assert error.reason is None


async def test_errors_survive_pickling(vault: AsyncTokenVaultClient, fake: FakeVault) -> None:
    error = await failure(vault, fake, status(grpc.StatusCode.NOT_FOUND, reason="GRANT_NOT_FOUND"))
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is tokenvault.GrantNotFound
    assert (copy.message, copy.reason, copy.code) == (error.message, error.reason, error.code)


async def test_no_error_shows_what_was_sent(vault: AsyncTokenVaultClient, fake: FakeVault) -> None:
    fake.answers.append(status(grpc.StatusCode.FAILED_PRECONDITION, reason="CODE_REJECTED"))
    secrets = {"state": "s3cret-state", "code": "s3cret-code"}
    with pytest.raises(tokenvault.CodeRejected) as raised:
        await vault.complete_delegation(secrets)
    shown = "".join(traceback.format_exception(raised.value)) + repr(vars(raised.value))
    assert "what happened" in shown
    assert "s3cret" not in shown
