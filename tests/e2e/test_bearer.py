"""A brand's service shows an access token beside its certificate, through the running sidecar."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.authserver import clients
from tests.authserver.oidc import VAULT_AUDIENCE, OidcProvider
from tests.e2e.people import call_api, delegate
from tests.e2e.vaults import BOT, PATIENCE, SERVICE, Whose, brand, connect, make_vault, running
from tests.running import SidecarProcess, caller_files
from tokenvault import AsyncTokenVaultClient, BearerInvalid, ClientCredentials, PolicyDenied
from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault.v1.token_vault_pb2_grpc import TokenVaultStub


@pytest.fixture
async def sidecar(oidc_provider: OidcProvider, tmp_path: Path) -> AsyncIterator[SidecarProcess]:
    folder = tmp_path / "vault"
    acme = brand(folder, oidc_provider.issuer, clients.BASIC)
    caller = {
        "identities": [f"spiffe://tokenvault.test/{SERVICE}"],
        "bearer": {"issuer": oidc_provider.issuer, "audience": VAULT_AUDIENCE},
        "allow": [{"rpcs": ["GetToken"], "brands": ["*"], "contexts": ["consumer"]}],
    }
    async with running(make_vault(folder, {"acme": acme}, callers={SERVICE: caller})) as sidecar:
        yield sidecar


def credentials(provider: OidcProvider, **given: Any) -> ClientCredentials:
    parameters = {"client_secret": clients.SERVICE.secret, "resource": VAULT_AUDIENCE, **given}
    return ClientCredentials(
        token_endpoint=provider.token_endpoint, client_id=clients.SERVICE.client_id, **parameters
    )


def service(sidecar: SidecarProcess, shown: ClientCredentials) -> AsyncTokenVaultClient:
    files = caller_files(sidecar.folder, SERVICE)
    return AsyncTokenVaultClient(sidecar.address, timeout=PATIENCE, **files, credentials=shown)


async def test_reads_a_consumer_s_token(sidecar: SidecarProcess, oidc_provider: OidcProvider) -> None:
    async with connect(sidecar, BOT) as bot, service(sidecar, credentials(oidc_provider)) as orders:
        await delegate(bot, "acme", consumer="alice")
        token = await orders.get_token("acme", consumer="alice")
        assert await call_api(oidc_provider, token) == 200
        with pytest.raises(PolicyDenied):
            await orders.get_token("acme", conversation="c-1")


async def test_without_a_token_nothing_is_told(sidecar: SidecarProcess) -> None:
    """Not even whether there is such a grant, or such a right."""
    async with connect(sidecar, SERVICE) as orders:
        for context in (Whose(consumer="alice"), Whose(conversation="c-1")):
            with pytest.raises(BearerInvalid, match="there is none in the authorization metadata"):
                await orders.get_token("acme", **context)


async def test_a_token_for_something_else(sidecar: SidecarProcess, oidc_provider: OidcProvider) -> None:
    async with service(sidecar, credentials(oidc_provider, scope="")) as orders:
        with pytest.raises(BearerInvalid, match="its scope does not hold what is needed"):
            await orders.get_token("acme", consumer="alice")
    async with service(sidecar, credentials(oidc_provider, resource=None, scope="")) as orders:
        with pytest.raises(BearerInvalid, match="not a signed JWT"):
            await orders.get_token("acme", consumer="alice")


async def test_two_tokens_are_one_too_many(sidecar: SidecarProcess, oidc_provider: OidcProvider) -> None:
    """On the wire a metadata key may come twice: neither value is believed."""
    good = f"Bearer {await credentials(oidc_provider).aio.token(PATIENCE)}"
    files = caller_files(sidecar.folder, SERVICE)
    tls = grpc.ssl_channel_credentials(
        files["ca"].read_bytes(), files["private_key"].read_bytes(), files["certificate"].read_bytes()
    )
    request = pb.GetTokenRequest(
        brand_id="acme", context=pb.Context(consumer=pb.ConsumerContext(consumer_id="nobody"))
    )
    async with grpc.aio.secure_channel(sidecar.address, tls) as channel:
        stub = TokenVaultStub(channel)
        for values, code in [
            ([good], grpc.StatusCode.NOT_FOUND),
            ([good, good], grpc.StatusCode.UNAUTHENTICATED),
            (["Bearer a.b.c", good], grpc.StatusCode.UNAUTHENTICATED),
            ([f"{good},{good}"], grpc.StatusCode.UNAUTHENTICATED),
        ]:
            metadata = [("authorization", value) for value in values]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GetToken(request, metadata=metadata, timeout=PATIENCE)
            assert caught.value.code() is code, caught.value.details()
