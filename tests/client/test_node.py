"""The Node client's own tests."""

import os
import subprocess
from pathlib import Path

from tests.authserver.node import ensure_installed

HOME = Path("client/node")


def test_the_node_clients_tests_pass() -> None:
    node = ensure_installed(HOME)
    tests = [str(path.relative_to(HOME)) for path in HOME.glob("test/*.test.js")]
    done = subprocess.run(
        [node.executable, "--test", *tests], cwd=HOME, capture_output=True, text=True, timeout=120
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
