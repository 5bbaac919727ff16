"""The Node client's own tests."""

import os
import subprocess
from pathlib import Path

from tests.authserver.node import ensure_installed
from tokenvault_sidecar.devkit import DevelopmentCA

HOME = Path("client/node")


def write_files(folder: Path) -> None:
    """What its scripted sidecar and that one's callers show."""
    ca = DevelopmentCA.create("test CA")
    (folder / "ca.pem").write_bytes(ca.certificate_pem)
    issued = {name: ca.issue(name=name, uris=[f"spiffe://test/{name}"]) for name in ("bot", "bot-2")}
    issued["server"] = ca.issue(name="server", ips=["127.0.0.1"])
    for name, own in issued.items():
        (folder / f"{name}.pem").write_bytes(own.certificate_pem)
        (folder / f"{name}.key").write_bytes(own.private_key_pem)


def test_the_node_clients_tests_pass(tmp_path: Path) -> None:
    node = ensure_installed(HOME)
    write_files(tmp_path)
    tests = [str(path.relative_to(HOME)) for path in HOME.glob("test/*.test.js")]
    done = subprocess.run(
        [node.executable, "--test", *tests],
        cwd=HOME,
        env=os.environ | {"TOKENVAULT_TEST_FILES": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert tests
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_works_in_an_empty_project(tmp_path: Path) -> None:
    node = ensure_installed(HOME)
    path = f"{Path(node.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TOKENVAULT_")} | {"PATH": path}

    def run(*command: str, cwd: Path) -> str:
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(*node.npm, "pack", "--silent", "--pack-destination", str(tmp_path), cwd=HOME)
    (package,) = tmp_path.glob("*.tgz")
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    run(
        *node.npm, "install", "--ignore-scripts", "--prefer-offline", "--no-audit", package.name, cwd=tmp_path
    )
    (tmp_path / "bot.js").write_text(
        'import { TokenVaultClient } from "tokenvault";\n'
        "try { TokenVaultClient.fromEnvironment(); } catch (error) { console.log(error.message); }\n"
    )
    said = run(node.executable, "bot.js", cwd=tmp_path)
    assert "TOKENVAULT_ADDRESS, TOKENVAULT_CA, TOKENVAULT_CERT, TOKENVAULT_KEY" in said
