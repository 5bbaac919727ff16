"""`make test-from-proto`: what client/README.md shows in C++ and Rust is built, and calls a real sidecar."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.authserver.consumer import Consumer
from tests.clients.stage import BRAND, Stage, stage
from tokenvault import TokenVaultClient

BUILD = Path("build")

pytestmark = pytest.mark.timeout(900)  # the first time all of tonic is fetched and compiled


def needs(*tools: str) -> None:
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")


def built(*command: str, **environment: str) -> None:
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def linked(
    program: Path, conversation: str, environment: Mapping[str, str]
) -> "subprocess.CompletedProcess[str]":
    command: Sequence[str] = [str(program), BRAND, conversation]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), access_token_ttl=600) as there:
        yield there


def played(program: Path, there: Stage) -> None:
    """Its link leads to a token; a sidecar of another CA is not spoken to."""
    conversation = f"conversation-of-{program.parent.name}"
    stranger = linked(program, conversation, there.environment("wrong-ca"))
    assert stranger.returncode != 0
    assert "://" not in stranger.stdout
    variables = there.environment("bot")
    started = linked(program, conversation, variables)
    assert started.returncode == 0, started.stdout + started.stderr
    query = asyncio.run(Consumer().authorize(started.stdout.strip()))
    with TokenVaultClient(
        variables["TOKENVAULT_ADDRESS"],
        ca=variables["TOKENVAULT_CA"],
        certificate=variables["TOKENVAULT_CERT"],
        private_key=variables["TOKENVAULT_KEY"],
    ) as vault:
        vault.complete_delegation(query)
        assert vault.get_token(BRAND, conversation=conversation).access_token


def test_cpp(there: Stage) -> None:
    needs("g++", "pkg-config", "protoc", "grpc_cpp_plugin")
    if subprocess.run(["pkg-config", "--exists", "grpc++", "protobuf"]).returncode:
        pytest.skip("not installed: libgrpc++-dev, libprotobuf-dev")
    folder = BUILD / "cpp"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    built("sh", "client/examples/cpp/build.sh", str(folder))
    played(folder / "bot", there)


def test_rust(there: Stage) -> None:
    needs("cargo")
    manifest = "client/examples/rust/Cargo.toml"
    folder = BUILD / "rust"
    built("cargo", "build", "--manifest-path", manifest, CARGO_TARGET_DIR=str(folder.resolve()))
    played(folder / "debug" / "bot", there)
