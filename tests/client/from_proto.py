"""`make test-from-proto`: what client/README.md shows in C++ and Rust is built, and calls a real sidecar."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.authserver.consumer import Consumer
from tests.clients.stage import BRAND, stage
from tokenvault import TokenVaultClient

BUILD = Path("build")

pytestmark = pytest.mark.timeout(900)  # the first time all of tonic is fetched and compiled


def needs(*tools: str) -> None:
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")


def built(*command: str, **environment: str) -> None:
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def linked(program: Path, environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    command: Sequence[str] = [str(program), BRAND, "conversation-1"]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60)


def played(program: Path, folder: Path) -> None:
    """Its link leads to a token; a sidecar of another CA is not spoken to."""
    with stage(folder, access_token_ttl=600) as there:
        stranger = linked(program, there.environment("wrong-ca"))
        assert stranger.returncode != 0
        assert "https://" not in stranger.stdout
        variables = there.environment("bot")
        started = linked(program, variables)
        assert started.returncode == 0, started.stdout + started.stderr
        query = asyncio.run(Consumer().authorize(started.stdout.strip()))
        with TokenVaultClient(
            variables["TOKENVAULT_ADDRESS"],
            ca=variables["TOKENVAULT_CA"],
            certificate=variables["TOKENVAULT_CERT"],
            private_key=variables["TOKENVAULT_KEY"],
        ) as vault:
            vault.complete_delegation(query)
            assert vault.get_token(BRAND, conversation="conversation-1").access_token


def test_cpp(tmp_path: Path) -> None:
    needs("g++", "pkg-config", "protoc", "grpc_cpp_plugin")
    if subprocess.run(["pkg-config", "--exists", "grpc++", "protobuf"]).returncode:
        pytest.skip("not installed: libgrpc++-dev, libprotobuf-dev")
    folder = BUILD / "cpp"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    built("nice", "sh", "client/examples/cpp/build.sh", str(folder))
    played(folder / "bot", tmp_path)


def test_rust(tmp_path: Path) -> None:
    needs("cargo")
    manifest = "client/examples/rust/Cargo.toml"
    folder = BUILD / "rust"
    built("nice", "cargo", "build", "--manifest-path", manifest, CARGO_TARGET_DIR=str(folder.resolve()))
    played(folder / "debug" / "bot", tmp_path)
