"""A certificate authority, a scripted sidecar, and both clients behind one face."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import pytest

from tests.client.fake_vault import FakeVault, serve
from tokenvault import AsyncTokenVaultClient, TokenVaultClient
from tokenvault_sidecar.devkit import DevelopmentCA, Issued


@dataclass(frozen=True)
class Files:
    """What a caller has: PEM files, by the client's parameter names."""

    ca: Path
    certificate: Path
    private_key: Path

    def parameters(self) -> dict[str, Any]:
        return {"ca": self.ca, "certificate": self.certificate, "private_key": self.private_key}

    @classmethod
    def write(cls, folder: Path, ca: DevelopmentCA, issued: Issued) -> "Files":
        folder.mkdir()
        files = cls(folder / "ca.pem", folder / "bot.pem", folder / "bot.key")
        files.ca.write_bytes(ca.certificate_pem)
        files.certificate.write_bytes(issued.certificate_pem)
        files.private_key.write_bytes(issued.private_key_pem)
        return files


class Connect(Protocol):
    """Makes a client; the synchronous one is called in a thread, so that both are awaited."""

    def __call__(self, address: str, **parameters: Any) -> AsyncTokenVaultClient: ...


@pytest.fixture(scope="session")
def ca() -> DevelopmentCA:
    return DevelopmentCA.create("test CA")


@pytest.fixture(scope="session")
def server_certificate(ca: DevelopmentCA) -> Issued:
    return ca.issue(name="sidecar", dns=["localhost", "vault.test"], ips=["127.0.0.1"])


@pytest.fixture
def files(ca: DevelopmentCA, tmp_path: Path) -> Files:
    return Files.write(tmp_path / "bot", ca, ca.issue(name="bot", uris=["spiffe://test/bot"]))


@pytest.fixture
def fake() -> FakeVault:
    return FakeVault()


@pytest.fixture
def address(fake: FakeVault, ca: DevelopmentCA, server_certificate: Issued) -> Iterator[str]:
    with serve(fake, "127.0.0.1:0", own=server_certificate, trusts=ca.certificate_pem) as address:
        yield address


@pytest.fixture(params=["sync", "async"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Every test that asks for this runs with either client."""
    opened: list[AsyncTokenVaultClient] = []

    def connect(address: str, **parameters: Any) -> AsyncTokenVaultClient:
        if request.param == "async":
            client = AsyncTokenVaultClient(address, **parameters)
        else:
            client = cast(AsyncTokenVaultClient, _Awaited(TokenVaultClient(address, **parameters)))
        opened.append(client)
        return client

    yield connect
    for client in opened:
        await client.close()


@pytest.fixture
async def vault(connect: Connect, address: str, files: Files) -> AsyncTokenVaultClient:
    return connect(address, **files.parameters())


class _Awaited:
    def __init__(self, client: TokenVaultClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(method, *args, **kwargs)

        return awaited
