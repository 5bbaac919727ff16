"""Reaching the sidecar: addresses, mutual TLS, files, environment."""

import asyncio
from pathlib import Path

import pytest

from tests.client.conftest import Connect, Files
from tests.client.fake_vault import FakeVault, serve
from tokenvault import AsyncTokenVaultClient, TokenVaultClient, VaultUnreachable
from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault_sidecar.devkit import DevelopmentCA, Issued

TOKEN = pb.GetTokenResponse(access_token="s3cret", token_type="Bearer", token_version="v1")


async def reached(vault: AsyncTokenVaultClient, fake: FakeVault) -> bool:
    fake.answers.append(TOKEN)
    return (await vault.get_token("acme", consumer="alice")).access_token == "s3cret"


async def refused(vault: AsyncTokenVaultClient) -> VaultUnreachable:
    with pytest.raises(VaultUnreachable, match="no connection to the sidecar at ") as raised:
        await vault.get_token("acme", consumer="alice")
    return raised.value


@pytest.mark.parametrize("prefix", ["", "dns:", "ipv4:"])
async def test_tcp(connect: Connect, address: str, files: Files, fake: FakeVault, prefix: str) -> None:
    assert await reached(connect(prefix + address, **files.parameters()), fake)


async def test_unix_socket(
    connect: Connect,
    files: Files,
    fake: FakeVault,
    ca: DevelopmentCA,
    server_certificate: Issued,
    tmp_path: Path,
) -> None:
    path = f"unix:{tmp_path}/vault.sock"
    with serve(fake, path, own=server_certificate, trusts=ca.certificate_pem):
        assert await reached(connect(path, **files.parameters()), fake)
        assert await reached(connect(path, **files.parameters(), server_name="vault.test"), fake)
        await refused(connect(path, **files.parameters(), server_name="other.test"))


async def test_server_name(connect: Connect, address: str, files: Files, fake: FakeVault) -> None:
    assert await reached(connect(address, **files.parameters(), server_name="vault.test"), fake)
    await refused(connect(address, **files.parameters(), server_name="other.test"))


async def test_a_sidecar_of_another_ca_is_not_talked_to(
    connect: Connect, address: str, files: Files, fake: FakeVault
) -> None:
    files.ca.write_bytes(DevelopmentCA.create("another CA").certificate_pem)
    error = await refused(connect(address, **files.parameters()))
    assert "CERTIFICATE_VERIFY_FAILED" in error.message
    assert fake.requests == []


async def test_a_caller_of_another_ca_is_refused(
    connect: Connect, address: str, files: Files, fake: FakeVault, ca: DevelopmentCA, tmp_path: Path
) -> None:
    stranger = DevelopmentCA.create("another CA").issue(name="stranger")
    theirs = Files.write(tmp_path / "stranger", ca, stranger)
    await refused(connect(address, **theirs.parameters()))
    assert fake.requests == []


async def test_new_files_are_used_once_all_three_are_in_order(
    connect: Connect, address: str, files: Files, fake: FakeVault, ca: DevelopmentCA
) -> None:
    good = ca.issue(name="bot", uris=["spiffe://test/bot"])
    stranger = DevelopmentCA.create("another CA").issue(name="stranger")
    files.certificate.write_bytes(stranger.certificate_pem)
    files.private_key.write_bytes(stranger.private_key_pem)
    vault = connect(address, **files.parameters())
    await refused(vault)
    files.certificate.write_bytes(good.certificate_pem)  # not the key's, yet
    await asyncio.sleep(1.1)
    await refused(vault)
    files.private_key.write_bytes(good.private_key_pem)
    await asyncio.sleep(1.1)
    assert await reached(vault, fake)
    files.ca.write_bytes(b"half a f")
    await asyncio.sleep(1.1)
    assert await reached(vault, fake)


async def test_no_sidecar_there(connect: Connect, files: Files, tmp_path: Path) -> None:
    await refused(connect(f"unix:{tmp_path}/nobody.sock", **files.parameters()))


async def test_https_proxy_is_not_used(
    connect: Connect, address: str, files: Files, fake: FakeVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    assert await reached(connect(f"dns:{address}", **files.parameters()), fake)


async def test_a_sidecar_that_comes_back_is_found_again(
    connect: Connect,
    files: Files,
    fake: FakeVault,
    ca: DevelopmentCA,
    server_certificate: Issued,
    tmp_path: Path,
) -> None:
    path = f"unix:{tmp_path}/vault.sock"
    vault = connect(path, **files.parameters())
    with serve(fake, path, own=server_certificate, trusts=ca.certificate_pem):
        assert await reached(vault, fake)
    await refused(vault)
    with serve(fake, path, own=server_certificate, trusts=ca.certificate_pem):
        async with asyncio.timeout(30):
            while not await found(vault, fake):  # noqa: ASYNC110 only a call can tell
                await asyncio.sleep(0.05)


async def found(vault: AsyncTokenVaultClient, fake: FakeVault) -> bool:
    try:
        return await reached(vault, fake)
    except VaultUnreachable:
        fake.answers.clear()
        return False


CLIENTS = [TokenVaultClient, AsyncTokenVaultClient]
Client = type[TokenVaultClient] | type[AsyncTokenVaultClient]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("address", ["", "localhost"])
async def test_a_malformed_address_is_named(client: Client, address: str, files: Files) -> None:
    with pytest.raises(ValueError, match=rf'^address \'{address}\': write "host:port"'):
        client(address, **files.parameters())


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("parameter", ["ca", "certificate", "private_key"])
async def test_a_file_that_is_missing_or_something_else_is_named(
    client: Client, parameter: str, files: Files
) -> None:
    path = files.parameters()[parameter]
    swapped = files.ca if parameter == "private_key" else files.private_key
    with pytest.raises(ValueError, match=f"^{swapped}: holds no PEM "):
        client("127.0.0.1:1", **files.parameters() | {parameter: swapped})
    path.unlink()
    with pytest.raises(FileNotFoundError, match=str(path)):
        client("127.0.0.1:1", **files.parameters())


def set_environment(monkeypatch: pytest.MonkeyPatch, address: str, files: Files) -> None:
    monkeypatch.setenv("TOKENVAULT_ADDRESS", address)
    monkeypatch.setenv("TOKENVAULT_CA", str(files.ca))
    monkeypatch.setenv("TOKENVAULT_CERT", str(files.certificate))
    monkeypatch.setenv("TOKENVAULT_KEY", str(files.private_key))


async def test_environment(
    address: str, files: Files, fake: FakeVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, address, files)
    fake.answers.extend([TOKEN, TOKEN])
    with TokenVaultClient.from_environment() as vault:
        assert vault.get_token("acme", consumer="alice").access_token == "s3cret"
    async with AsyncTokenVaultClient.from_environment(server_name="vault.test", timeout=5) as twin:
        assert (await twin.get_token("acme", consumer="alice")).access_token == "s3cret"
    assert fake.deadlines[1] <= 5


@pytest.mark.parametrize("client", CLIENTS)
async def test_what_is_missing_in_the_environment_is_named(
    client: Client, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, "127.0.0.1:1", files)
    monkeypatch.delenv("TOKENVAULT_CA")
    monkeypatch.setenv("TOKENVAULT_KEY", "")
    with pytest.raises(ValueError, match=r"TOKENVAULT_CA .*TOKENVAULT_KEY ") as raised:
        client.from_environment()
    assert "TOKENVAULT_CERT" not in str(raised.value)


def test_the_async_client_wants_its_loop(files: Files) -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        AsyncTokenVaultClient("127.0.0.1:1", **files.parameters())
