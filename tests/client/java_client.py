"""`make test-java`: the Java client's own tests; installed, its example in an empty project."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.client.bot_example import played

pytestmark = [
    pytest.mark.timeout(600),  # the first time all of gRPC is fetched
    pytest.mark.skipif(shutil.which("mvn") is None, reason="mvn is not installed"),
]

HOME = Path("client/java").resolve()
_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion>
<groupId>example.test</groupId><artifactId>bot</artifactId><version>1</version>
<properties>
<maven.compiler.source>17</maven.compiler.source><maven.compiler.target>17</maven.compiler.target>
</properties>
<dependencies>
{dependency}</dependencies>
</project>
"""


def maven(*arguments: str, cwd: Path) -> None:
    done = subprocess.run(["mvn", "-q", "-B", *arguments], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def in_an_empty_project(source: Path, folder: Path) -> str:
    """A program that needs the client, built as its README says; the classpath."""
    (dependency,) = re.findall(r"```xml\n(.*?)```", (HOME / "README.md").read_text(), flags=re.DOTALL)
    (folder / "src" / "main" / "java").mkdir(parents=True)
    shutil.copy(source, folder / "src" / "main" / "java")
    (folder / "pom.xml").write_text(_POM.format(dependency=dependency))
    classpath = folder / "classpath"
    maven("compile", "dependency:build-classpath", f"-Dmdep.outputFile={classpath}", cwd=folder)
    return f"{folder / 'target' / 'classes'}:{classpath.read_text().strip()}"


def test_its_own_tests_and_the_example_from_an_empty_project(tmp_path: Path) -> None:
    maven("install", cwd=HOME)
    path = in_an_empty_project(HOME / "examples" / "Bot.java", tmp_path / "project")
    assert played(["java", "-cp", path, "Bot"], tmp_path / "vault") == 200
