"""The Python client's wheel in an empty environment, and its example there: a brand's service."""

import os
import subprocess
import sys
import venv
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from tests.authserver import clients
from tests.authserver.oidc import VAULT_AUDIENCE, OidcProvider
from tests.e2e.people import delegate
from tests.e2e.vaults import BOT, SERVICE, brand, connect, make_vault, running
from tests.running import SidecarProcess, caller_files

CLIENT = Path("client/python").resolve()
EXAMPLE = CLIENT / "examples" / "brand_service.py"


def ran(*command: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """By nothing of this environment but what the command names."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "TOKENVAULT_", "VIRTUAL_ENV"))}
    return subprocess.run(
        command, cwd=cwd, env=kept | environment, capture_output=True, text=True, timeout=240
    )


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An environment's Python that has the wheel, and what the wheel says it needs."""
    folder = tmp_path_factory.mktemp("empty")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    made = ran(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(CLIENT), cwd=folder)
    assert made.returncode == 0, made.stderr
    (wheel,) = folder.glob("tokenvault-*.whl")
    venv.create(folder / "venv")
    python = str(folder / "venv" / "bin" / "python")
    wanted = f"{wheel}[client-credentials,httpx2]"
    installed = ran(*pip, "--python", python, "install", "--prefer-binary", wanted, cwd=folder)
    assert installed.returncode == 0, installed.stderr
    return python


@pytest.fixture(params=["bearer", "certificate alone"])
def bearer(request: pytest.FixtureRequest) -> bool:
    """Whether the sidecar wants to see an access token of the service."""
    return bool(request.param == "bearer")


@pytest.fixture
async def sidecar(oidc_provider: OidcProvider, tmp_path: Path, bearer: bool) -> AsyncIterator[SidecarProcess]:
    folder = tmp_path / "vault"
    acme = brand(folder, oidc_provider.issuer, clients.BASIC)
    caller: dict[str, object] = {
        "identities": [f"spiffe://tokenvault.test/{SERVICE}"],
        "allow": [{"rpcs": ["GetToken"], "brands": ["*"], "contexts": ["consumer"]}],
    }
    if bearer:
        caller["bearer"] = {"issuer": oidc_provider.issuer, "audience": VAULT_AUDIENCE}
    async with running(make_vault(folder, {"acme": acme}, callers={SERVICE: caller})) as sidecar:
        yield sidecar


def reached(sidecar: SidecarProcess) -> Mapping[str, str]:
    files = caller_files(sidecar.folder, SERVICE)
    return {
        "TOKENVAULT_ADDRESS": sidecar.address,
        "TOKENVAULT_CA": str(files["ca"]),
        "TOKENVAULT_CERT": str(files["certificate"]),
        "TOKENVAULT_KEY": str(files["private_key"]),
    }


def shown(provider: OidcProvider) -> Mapping[str, str]:
    assert clients.SERVICE.secret is not None
    return {
        "TOKEN_ENDPOINT": provider.token_endpoint,
        "CLIENT_ID": clients.SERVICE.client_id,
        "CLIENT_SECRET": clients.SERVICE.secret,
        "RESOURCE": VAULT_AUDIENCE,
    }


def test_the_wheel_is_typed_and_stands_alone(python: str, tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, tokenvault\n"
        "folder = pathlib.Path(tokenvault.__file__).parent\n"
        "print(folder.is_relative_to(sys.prefix), (folder / 'py.typed').exists())\n"
    )
    assert ran(python, "-c", program, cwd=tmp_path).stdout == "True True\n"


async def test_the_brand_s_service(
    python: str, sidecar: SidecarProcess, oidc_provider: OidcProvider, bearer: bool, tmp_path: Path
) -> None:
    command = (python, str(EXAMPLE), "acme", "alice", oidc_provider.userinfo_endpoint)
    environment = {**reached(sidecar), **(shown(oidc_provider) if bearer else {})}
    early = ran(*command, cwd=tmp_path, **environment)
    assert (early.returncode, early.stderr) == (1, "")
    assert early.stdout == "the consumer has to log in first: a bot asks for that\n"
    async with connect(sidecar, BOT) as bot:
        await delegate(bot, "acme", consumer="alice")
    done = ran(*command, cwd=tmp_path, **environment)
    assert (done.stdout, done.returncode) == ("the brand's API answered 200\n", 0), done.stderr
