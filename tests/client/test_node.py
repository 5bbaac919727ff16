"""The Node client's own tests."""

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
