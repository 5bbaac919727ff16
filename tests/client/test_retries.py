"""What is repeated by itself: UNAVAILABLE of GetToken and Invalidate, by the service config; nothing else."""

from collections.abc import Awaitable, Callable

import grpc
import pytest
from google.rpc import status_pb2  # type: ignore[import-untyped]  # typed, but unmarked

from tests.client.fake_vault import FakeVault
from tokenvault import AsyncTokenVaultClient, TokenVaultError, Unavailable
from tokenvault.v1 import token_vault_pb2 as pb

Make = Callable[[AsyncTokenVaultClient], Awaitable[object]]

REPEATED: dict[str, tuple[Make, object]] = {
    "GetToken": (lambda vault: vault.get_token("acme", consumer="alice"), pb.GetTokenResponse()),
    "Invalidate": (lambda vault: vault.invalidate("acme", consumer="alice"), pb.InvalidateResponse()),
}
SENT_ONCE: dict[str, Make] = {
    "StartDelegation": lambda vault: vault.start_delegation("acme", consumer="alice"),
    "CompleteDelegation": lambda vault: vault.complete_delegation(state="s", code="c"),
}


def status(code: grpc.StatusCode) -> status_pb2.Status:
    return status_pb2.Status(code=code.value[0], message="not now")


@pytest.mark.parametrize("rpc", REPEATED)
async def test_unavailable_is_repeated(vault: AsyncTokenVaultClient, fake: FakeVault, rpc: str) -> None:
    make, answer = REPEATED[rpc]
    fake.forbids_retries = False
    fake.answers.extend([status(grpc.StatusCode.UNAVAILABLE), status(grpc.StatusCode.UNAVAILABLE), answer])
    await make(vault)
    assert len(fake.requests) == 3


async def test_four_attempts_are_all(vault: AsyncTokenVaultClient, fake: FakeVault) -> None:
    fake.forbids_retries = False
    fake.answers.extend([status(grpc.StatusCode.UNAVAILABLE)] * 5)
    with pytest.raises(Unavailable):
        await vault.get_token("acme", consumer="alice")
    assert len(fake.requests) == 4


@pytest.mark.parametrize("rpc", SENT_ONCE)
async def test_a_delegation_is_sent_once(vault: AsyncTokenVaultClient, fake: FakeVault, rpc: str) -> None:
    fake.forbids_retries = False
    fake.answers.append(status(grpc.StatusCode.UNAVAILABLE))
    with pytest.raises(Unavailable):
        await SENT_ONCE[rpc](vault)
    assert len(fake.requests) == 1


async def test_the_sidecar_s_own_unavailable_is_not_repeated(
    vault: AsyncTokenVaultClient, fake: FakeVault
) -> None:
    fake.answers.append(status(grpc.StatusCode.UNAVAILABLE))
    with pytest.raises(Unavailable):
        await vault.get_token("acme", consumer="alice")
    assert len(fake.requests) == 1


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED])
async def test_nothing_but_unavailable_is(
    vault: AsyncTokenVaultClient, fake: FakeVault, code: grpc.StatusCode
) -> None:
    fake.forbids_retries = False
    fake.answers.append(status(code))
    with pytest.raises(TokenVaultError):
        await vault.get_token("acme", consumer="alice")
    assert len(fake.requests) == 1
