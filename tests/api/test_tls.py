"""Mutual TLS, and certificates that change while the server runs."""

from pathlib import Path

import grpc
import pytest
import structlog

from tests.api.running import BOT, DEADLINE, Pki, Running, consumer, replace
from tests.fakes.usecases import issued
from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault.v1.token_vault_pb2_grpc import TokenVaultStub
from tokenvault_sidecar.api.tls import TlsFiles, TlsFilesInvalid, server_credentials
from tokenvault_sidecar.core.model import Context, ContextKind
from tokenvault_sidecar.devkit import DevelopmentCA, Issued

REQUEST = pb.GetTokenRequest(brand_id="acme", context=consumer())


@pytest.fixture(autouse=True)
def _kept(running: Running) -> None:
    running.tokens.kept["acme", Context(ContextKind.CONSUMER, "alice")] = issued()


async def served(running: Running, client: Issued | None, server_ca: bytes | None = None) -> bool:
    """Whether a new connection gets as far as a token; a handshake that fails is UNAVAILABLE."""
    try:
        await running.call(client, "GetToken", REQUEST, server_ca=server_ca)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False
    return True


async def test_a_client_without_certificate_or_of_a_foreign_ca_gets_no_connection(running: Running) -> None:
    foreign = DevelopmentCA.create("foreign CA").issue(name="bot", uris=[BOT])
    assert await served(running, running.pki.bot)
    assert not await served(running, None)
    assert not await served(running, foreign)
    assert len(running.tokens.asked) == 1


async def test_a_new_server_certificate_is_for_new_connections_and_drops_none(running: Running) -> None:
    pki, other = running.pki, DevelopmentCA.create("next CA")
    async with running.channel(pki.bot) as channel:
        await TokenVaultStub(channel).GetToken(REQUEST, timeout=DEADLINE)
        with structlog.testing.capture_logs() as logs:
            pki.renew_server(other)
            assert await served(running, pki.bot, other.certificate_pem)
            assert not await served(running, pki.bot, pki.ca.certificate_pem)
        # The old connection: anew it would not come about.
        await TokenVaultStub(channel).GetToken(REQUEST, timeout=DEADLINE)
    assert [entry["event"] for entry in logs] == ["tls_files_reloaded"]


async def test_a_new_client_ca_decides_who_may_connect(running: Running) -> None:
    pki, other = running.pki, DevelopmentCA.create("next CA")
    newcomer = other.issue(name="bot", uris=[BOT])
    replace(pki.files.client_ca, other.certificate_pem + pki.ca.certificate_pem)
    assert await served(running, newcomer)
    assert await served(running, pki.bot)
    replace(pki.files.client_ca, other.certificate_pem)
    assert await served(running, newcomer)
    assert not await served(running, pki.bot)


async def test_broken_new_files_leave_the_old_in_use(running: Running) -> None:
    pki = running.pki
    key = pki.files.private_key
    good = key.read_bytes()
    with structlog.testing.capture_logs() as logs:
        replace(key, b"canary")
        assert await served(running, pki.bot)
        assert await served(running, pki.bot)
        key.unlink()
        assert await served(running, pki.bot)
        replace(key, good)
        assert await served(running, pki.bot)
    events = [entry["event"] for entry in logs]
    assert events == ["tls_files_invalid", "tls_files_invalid", "tls_files_reloaded"]
    assert [entry["log_level"] for entry in logs] == ["error", "error", "info"]
    assert str(key) in logs[0]["problem"]
    assert "canary" not in repr(logs)


@pytest.mark.parametrize(
    ("wrong", "content", "why"),
    [
        ("certificate", None, "cannot be read"),
        ("certificate", b"", "holds no PEM certificate"),
        ("private_key", None, "cannot be read"),
        ("private_key", b"canary", "holds no PEM private key"),
        ("private_key", DevelopmentCA.create("other").private_key_pem, "is not the private key of"),
        ("client_ca", None, "cannot be read"),
        ("client_ca", b"-----BEGIN CERTIFICATE-----\n", "holds no PEM certificate"),
    ],
)
def test_unusable_files_are_named(pki: Pki, wrong: str, content: bytes | None, why: str) -> None:
    path: Path = getattr(pki.files, wrong)
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(TlsFilesInvalid) as caught:
        server_credentials(pki.files)
    assert str(caught.value).startswith(str(path))
    assert why in str(caught.value)
    assert "canary" not in str(caught.value)


def test_a_certificate_chain_is_taken_whole(pki: Pki, tmp_path: Path) -> None:
    pki.files.certificate.write_bytes(pki.files.certificate.read_bytes() + pki.ca.certificate_pem)
    server_credentials(TlsFiles(pki.files.certificate, pki.files.private_key, pki.files.client_ca))
