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
    issued["named"] = ca.issue(name="named", dns=["vault.test", "localhost"])
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
