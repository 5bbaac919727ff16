"""Development folders with the brands and callers these tests need, and clients of what runs there."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.authserver.clients import REDIRECT_URI, Registration
from tests.config.documents import Document
from tests.running import SidecarProcess, caller_files
from tokenvault import AsyncTokenVaultClient
from tokenvault_sidecar.devkit import DevelopmentCA

BOT, OTHER_BOT, SERVICE, STRANGER = "bot", "other-bot", "brand-service", "stranger"
"""Two bots that may do everything, a service that reads consumers' tokens, and somebody not configured."""

PATIENCE = 30.0

_T = TypeVar("_T")


class Whose(TypedDict, total=False):
    """A context, as the client's methods take it: one of the two."""

    consumer: str
    conversation: str


def make_vault(folder: Path, brands: Mapping[str, Mapping[str, Any]], **tables: Mapping[str, Any]) -> Path:
    """A folder with a configuration of these brands, all four callers' files; the configuration's path.

    `tables` are keys of further tables, as in `renewal={"lease": "5s"}`.
    """
    document = Document(folder)
    document.set("brands", to=brands)
    document.set("server", "listen", to=["127.0.0.1:0"])
    document.set("server", "log_format", to="json")
    document.set("ops", "listen", to="127.0.0.1:0")
    document.set("callback", "listen", to="127.0.0.1:0")
    document.set("callers", SERVICE, "allow", 0, "brands", to=["*"])
    bot = document.content["callers"][BOT]
    document.set("callers", OTHER_BOT, to=bot | {"identities": [f"spiffe://tokenvault.test/{OTHER_BOT}"]})
    for table, keys in tables.items():
        for key, value in keys.items():
            document.set(table, key, to=value)
    for caller in (OTHER_BOT, STRANGER):
        _issue(folder, caller)
    document.load()  # writes it, and raises where it is not in order
    return document.path


def brand(folder: Path, issuer: str, registration: Registration, **keys: Any) -> dict[str, Any]:
    """A brand's table; its secret or key is put into the folder, which is made where it is missing."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    table: dict[str, Any] = {
        "issuer": issuer,
        "client_id": registration.client_id,
        "client_auth": registration.auth_method,
        "redirect_uris": list(registration.redirect_uris or (REDIRECT_URI,)),
        "authorization_parameters": {"prompt": "consent"},
        "consumer": {"scopes": ["openid", "offline_access", "profile"]},
        "conversation": {"scopes": ["openid", "profile"]},
    }
    for key, secret in (
        ("client_secret_file", registration.secret),
        ("private_key_file", registration.private_key),
    ):
        if secret is not None:
            table[key] = f"{registration.client_id}.{key}"
            path = folder / table[key]
            path.touch(mode=0o600)
            path.write_text(secret)
    return table | keys


@asynccontextmanager
async def running(config: Path, *, logs: Path | None = None) -> AsyncIterator[SidecarProcess]:
    """A sidecar while the block lasts; the loop, and a server in it, goes on while it starts and stops.

    Raises AssertionError where it told of a defect of its own.
    """
    sidecar = SidecarProcess(config, logs=logs)
    await asyncio.to_thread(sidecar.start)
    try:
        yield sidecar
    finally:
        if sidecar.returncode is None:
            await asyncio.to_thread(sidecar.stop)
    assert complaints(sidecar) == []


def connect(
    sidecar: SidecarProcess, caller: str = BOT, *, address: str | None = None
) -> AsyncTokenVaultClient:
    """A client that shows this caller's certificate."""
    return AsyncTokenVaultClient(
        address or sidecar.address, timeout=PATIENCE, **caller_files(sidecar.folder, caller)
    )


async def eventually(condition: Callable[[], Awaitable[_T]], *, within: float = PATIENCE) -> _T:
    """The condition's first answer that is true, asked over and over. Raises TimeoutError."""
    async with asyncio.timeout(within):
        while not (answer := await condition()):  # noqa: ASYNC110  # another process makes it true
            await asyncio.sleep(0.05)
    return answer


def complaints(sidecar: SidecarProcess) -> list[str]:
    """The lines of the log that tell of a defect of the sidecar itself."""
    signs = ("Traceback", "call_failed_unexpectedly", '"defect"')
    return [line for line in sidecar.stderr.read_text().splitlines() if any(sign in line for sign in signs)]


def _issue(folder: Path, caller: str) -> None:
    key = load_pem_private_key((folder / "ca.key.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    ca = DevelopmentCA(x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes()), key)
    issued = ca.issue(name=caller, uris=[f"spiffe://tokenvault.test/{caller}"])
    files = caller_files(folder, caller)
    files["certificate"].write_bytes(issued.certificate_pem)
    files["private_key"].touch(mode=0o600)
    files["private_key"].write_bytes(issued.private_key_pem)
