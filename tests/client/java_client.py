"""`make test-java`: the Java client's own tests, and its example."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.client.bot_example import played

pytestmark = [
    pytest.mark.timeout(600),  # the first time all of gRPC is fetched
    pytest.mark.skipif(shutil.which("mvn") is None, reason="mvn is not installed"),
]

CLASSPATH = Path("build/java/classpath").resolve()


def test_its_own_tests_and_the_example(tmp_path: Path) -> None:
    built = subprocess.run(
        ["mvn", "-q", "-B", "package", "dependency:build-classpath", f"-Dmdep.outputFile={CLASSPATH}"],
        cwd="client/java",
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    path = f"{CLASSPATH.parent / 'classes'}:{CLASSPATH.read_text().strip()}"
    assert played(["java", "-cp", path, "client/java/examples/Bot.java"], tmp_path / "vault") == 200
