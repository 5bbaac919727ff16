"""The Node client's own tests."""

import os
import subprocess
from pathlib import Path

from tests.authserver.node import ensure_installed
from tests.client.issued_files import write_files

HOME = Path("client/node")


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
