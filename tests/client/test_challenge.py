"""`challenge` and `watch_delegation`: the link, then what comes of it."""

from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # typed, but unmarked

from tests.client.conftest import Files
from tests.client.fake_vault import HANG, FakeVault
from tests.client.test_surface import consent_required
from tokenvault import (
    AsyncTokenVaultClient,
    AuthorizationDenied,
    Challenge,
    ChallengeOptions,
    Confirmation,
    ConfirmationCodeWrong,
    ConfirmationRequired,
    ConsentRequired,
    DeadlineExceeded,
    DelegationExpired,
    DelegationFailed,
    StateNotFound,
    SubjectMismatch,
    TokenVaultClient,
)
from tokenvault.v1 import error_reason_pb2 as reasons
from tokenvault.v1 import token_vault_pb2 as pb

LINK = "https://as.example/authorize?state=s3cret"
PENDING = pb.WatchDelegationResponse(status=pb.DELEGATION_STATUS_PENDING)
COMPLETED = pb.WatchDelegationResponse(
    status=pb.DELEGATION_STATUS_COMPLETED,
    delegated=pb.CompleteDelegationResponse(brand_id="acme", granted_scopes=["orders"], subject="alice"),
)
STARTED = pb.StartDelegationResponse(
    delegation_id="d-1", authorization_url=LINK, expire_time=Timestamp(seconds=2_000_000_000)
)


def ended(status: int, reason: int = 0) -> pb.WatchDelegationResponse:
    return pb.WatchDelegationResponse(status=status, reason=reason)  # type: ignore[arg-type]  # any there is


def away(code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> status_pb2.Status:
    info, retry = Packed(), Packed()
    info.Pack(error_details_pb2.ErrorInfo(reason="STORE_UNAVAILABLE", domain="tokenvault.v1"))
    wait = error_details_pb2.RetryInfo()
    wait.retry_delay.FromMilliseconds(10)
    retry.Pack(wait)
    return status_pb2.Status(code=code.value[0], message="watch again", details=[info, retry])


def test_three_lines(address: str, files: Files, fake: FakeVault) -> None:
    fake.answers.extend([STARTED, [PENDING, COMPLETED]])
    with TokenVaultClient(address, **files.parameters()) as vault:
        challenge = vault.challenge("acme", conversation="c-42", scopes="orders")
        assert challenge.authorization_url == LINK
        delegated = challenge.outcome()
    assert (delegated.brand, delegated.granted_scopes, delegated.subject) == ("acme", ("orders",), "alice")
    assert challenge.expire_time == datetime.fromtimestamp(2_000_000_000, UTC)
    assert repr(challenge) == "PendingChallenge('d-1')"
    start, watch = fake.requests
    assert isinstance(start, pb.StartDelegationRequest)
    assert start.scopes == ["orders"]
    assert watch == pb.WatchDelegationRequest(delegation_id="d-1")


async def test_three_lines_awaited(address: str, files: Files, fake: FakeVault) -> None:
    fake.answers.extend([STARTED, [COMPLETED]])
    async with AsyncTokenVaultClient(address, **files.parameters()) as vault:
        challenge = await vault.challenge("acme", consumer="alice")
        assert challenge.authorization_url == LINK
        assert (await challenge.outcome()).granted_scopes == ("orders",)
    assert repr(challenge) == "PendingChallenge('d-1')"


@pytest.mark.parametrize(
    ("event", "error", "reason"),
    [
        (
            ended(pb.DELEGATION_STATUS_DENIED, reasons.ERROR_REASON_AUTHORIZATION_DENIED),
            AuthorizationDenied,
            "AUTHORIZATION_DENIED",
        ),
        (
            ended(pb.DELEGATION_STATUS_FAILED, reasons.ERROR_REASON_SUBJECT_MISMATCH),
            SubjectMismatch,
            "SUBJECT_MISMATCH",
        ),
        (
            ended(pb.DELEGATION_STATUS_FAILED, reasons.ERROR_REASON_AS_UNAVAILABLE),
            DelegationFailed,
            "AS_UNAVAILABLE",
        ),
        (ended(pb.DELEGATION_STATUS_FAILED, 4711), DelegationFailed, None),
        (ended(pb.DELEGATION_STATUS_EXPIRED), DelegationExpired, None),
    ],
)
async def test_what_it_came_to(
    vault: AsyncTokenVaultClient, fake: FakeVault, event: Any, error: type[Exception], reason: str | None
) -> None:
    fake.answers.append([PENDING, event])
    with pytest.raises(DelegationFailed) as caught:
        await vault.watch_delegation("d-1")
    assert type(caught.value) is error
    assert caught.value.reason == reason


async def test_a_code_that_is_asked_for_and_brought(address: str, files: Files, fake: FakeVault) -> None:
    """The stream goes on; whoever watches is told at once all the same."""
    waits = pb.WatchDelegationResponse(status=pb.DELEGATION_STATUS_AWAITING_CONFIRMATION)
    waits.expire_time.FromSeconds(2_000_000_000)
    done = pb.ConfirmDelegationResponse(delegated=COMPLETED.delegated)
    fake.answers.extend([STARTED, [PENDING, waits, COMPLETED], code_wrong(2), done])
    async with AsyncTokenVaultClient(address, **files.parameters()) as vault:
        challenge = await vault.challenge("acme", conversation="c-42")
        with pytest.raises(ConfirmationRequired) as required:
            await challenge.outcome()
        assert required.value.delegation_id == "d-1"
        assert required.value.expire_time == datetime.fromtimestamp(2_000_000_000, UTC)
        assert required.value.reason == "CONFIRMATION_REQUIRED"
        with pytest.raises(ConfirmationCodeWrong) as wrong:
            await challenge.confirm("1234 5678")
        assert wrong.value.tries_left == 2
        assert (await challenge.confirm("8765-4321")).granted_scopes == ("orders",)
    assert fake.requests[-1] == pb.ConfirmDelegationRequest(
        delegation_id="d-1", confirmation_code="8765-4321"
    )


def test_a_code_in_the_synchronous_client(address: str, files: Files, fake: FakeVault) -> None:
    waits = pb.WatchDelegationResponse(status=pb.DELEGATION_STATUS_AWAITING_CONFIRMATION)
    done = pb.ConfirmDelegationResponse(delegated=COMPLETED.delegated)
    fake.answers.extend([STARTED, [waits, COMPLETED], code_wrong(0), done])
    with TokenVaultClient(address, **files.parameters()) as vault:
        challenge = vault.challenge("acme", conversation="c-42")
        with pytest.raises(ConfirmationRequired):
            challenge.outcome()
        with pytest.raises(ConfirmationCodeWrong) as wrong:
            challenge.confirm("12345678")
        assert wrong.value.tries_left == 0
        assert challenge.confirm("87654321").brand == "acme"


async def test_a_code_for_the_page_comes_with_the_completion(
    vault: AsyncTokenVaultClient, fake: FakeVault
) -> None:
    answer = pb.CompleteDelegationResponse(brand_id="acme")
    answer.confirmation.code = "01234567"
    answer.confirmation.expire_time.FromSeconds(2_000_000_000)
    fake.answers.append(answer)
    delegated = await vault.complete_delegation(state="s", code="c")
    assert delegated.confirmation == Confirmation("01234567", datetime.fromtimestamp(2_000_000_000, UTC))


async def test_a_token_that_waits_for_a_code_says_of_which_delegation(
    vault: AsyncTokenVaultClient, fake: FakeVault
) -> None:
    detail = pb.ConsentChallenge(delegation_id="d-1")
    detail.expire_time.FromSeconds(2_000_000_000)
    fake.answers.append(refusal("CONFIRMATION_REQUIRED", detail))
    with pytest.raises(ConfirmationRequired) as caught:
        await vault.get_token("acme", conversation="c-42", challenge=True)
    assert caught.value.delegation_id == "d-1"
    assert caught.value.expire_time == datetime.fromtimestamp(2_000_000_000, UTC)


def code_wrong(tries_left: int) -> status_pb2.Status:
    return refusal("CONFIRMATION_CODE_WRONG", tries_left=str(tries_left))


def refusal(reason: str, *details: Message, **metadata: str) -> status_pb2.Status:
    status = status_pb2.Status(code=grpc.StatusCode.FAILED_PRECONDITION.value[0], message="not like this")
    info = error_details_pb2.ErrorInfo(reason=reason, domain="tokenvault.v1", metadata=metadata)
    for detail in (info, *details):
        status.details.add().Pack(detail)
    return status


async def test_a_watch_that_breaks_is_taken_up_again(vault: AsyncTokenVaultClient, fake: FakeVault) -> None:
    fake.answers.extend([[PENDING, away()], [away()], [PENDING], [PENDING, COMPLETED]])
    assert (await vault.watch_delegation("d-1")).brand == "acme"
    assert len(fake.requests) == 4


async def test_a_watch_that_is_refused_is_not(vault: AsyncTokenVaultClient, fake: FakeVault) -> None:
    info = Packed()
    info.Pack(error_details_pb2.ErrorInfo(reason="STATE_NOT_FOUND", domain="tokenvault.v1"))
    fake.answers.append([status_pb2.Status(code=grpc.StatusCode.NOT_FOUND.value[0], details=[info])])
    with pytest.raises(StateNotFound):
        await vault.watch_delegation("d-1")


async def test_a_watch_has_its_own_timeout(vault: AsyncTokenVaultClient, fake: FakeVault) -> None:
    fake.answers.append(HANG)
    with pytest.raises(DeadlineExceeded):
        await vault.watch_delegation("d-1", timeout=0.2)


async def test_a_token_that_cannot_be_given_comes_with_a_link_where_asked(
    vault: AsyncTokenVaultClient, fake: FakeVault
) -> None:
    link = pb.ConsentChallenge(delegation_id="d-1", authorization_url="https://as.example/?state=s3cret")
    link.expire_time.FromSeconds(2_000_000_000)
    fake.answers.extend([consent_required(link), consent_required(link), consent_required()])
    with pytest.raises(ConsentRequired) as caught:
        await vault.get_token("acme", conversation="c-42", challenge=True)
    told = caught.value.challenge
    assert told == Challenge("d-1", link.authorization_url, datetime.fromtimestamp(2_000_000_000, UTC))
    assert "s3cret" not in f"{caught.value!r} {caught.value} {told}"
    options = ChallengeOptions("openid orders", "https://brand.example/callback")
    with pytest.raises(ConsentRequired):
        await vault.get_token("acme", conversation="c-42", challenge=options)
    with pytest.raises(ConsentRequired) as caught:
        await vault.get_token("acme", conversation="c-42")
    assert caught.value.challenge is None
    bare, asked, none = (request for request in fake.requests if isinstance(request, pb.GetTokenRequest))
    assert bare.HasField("challenge")
    assert not none.HasField("challenge")
    assert asked.challenge == pb.ChallengeOptions(
        scopes=["openid", "orders"], redirect_uri="https://brand.example/callback"
    )
