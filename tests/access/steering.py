"""A running sidecar's configuration and certificates, changed under it, and what it says of that."""

import json
import tomllib
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.e2e.vaults import eventually
from tests.running import SidecarProcess, caller_files
from tokenvault._connection import connection
from tokenvault_sidecar.config import to_toml
from tokenvault_sidecar.devkit import DevelopmentCA, Issued


def channel(sidecar: SidecarProcess, caller: str) -> grpc.aio.Channel:
    """A channel that shows this caller's certificate, for what the client does not do."""
    made = connection(sidecar.address, **caller_files(sidecar.folder, caller), server_name=None)
    return grpc.aio.secure_channel(made.address, made.credentials, options=made.options)


def replace(path: Path, content: str | bytes) -> None:
    """Put the content there at once: who reads sees the old or the new, never half."""
    new = path.with_name(f".{path.name}.new")
    new.touch(mode=path.stat().st_mode & 0o777 if path.exists() else 0o600)
    new.write_bytes(content.encode() if isinstance(content, str) else content)
    new.replace(path)


class Configuration:
    """The file, as tables; `write` has the running sidecar see them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = tomllib.loads(path.read_text())

    def write(self) -> None:
        text = "".join(f"{key} = {to_toml(value)}\n" for key, value in self.content.items())
        replace(self.path, text)


def authority(folder: Path) -> DevelopmentCA:
    """The authority of a development folder."""
    key = load_pem_private_key((folder / "ca.key.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return DevelopmentCA(x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes()), key)


def put_caller(folder: Path, caller: str, issued: Issued) -> None:
    """Files of a caller as `connect` wants them."""
    files = caller_files(folder, caller)
    replace(files["certificate"], issued.certificate_pem)
    replace(files["private_key"], issued.private_key_pem)


def said(sidecar: SidecarProcess, event: str) -> list[dict[str, Any]]:
    """The lines of its log with this event; what is only half written is not one yet."""
    text = sidecar.stderr.read_text()
    lines = text[: text.rfind("\n") + 1].splitlines()
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    return [entry for entry in entries if entry["event"] == event]


async def says(sidecar: SidecarProcess, event: str, times: int = 1) -> dict[str, Any]:
    """The last of so many lines with this event, once they are there."""

    async def there() -> list[dict[str, Any]]:
        found = said(sidecar, event)
        return found if len(found) >= times else []

    return (await eventually(there))[-1]
