"""`make test-java`: the Java client's own tests; installed, its example in place and in an empty project."""

import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.client.bot_example import ANSWERED, tried
from tests.client.issued_files import write_files
from tests.clients.stage import stage

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


def test_it_is_tried_with_its_own_tests(tmp_path: Path) -> None:
    """Before all others, for it installs the client."""
    files = tmp_path / "files"
    files.mkdir()
    write_files(files)
    with stage(tmp_path, access_token_ttl=600) as there:
        said = tried(HOME, tmp_path / "project", there, TOKENVAULT_TEST_FILES=str(files))
    assert said == ANSWERED
    reports = Path("build/java/surefire-reports").glob("*.xml")
    suites = [ElementTree.parse(report).getroot() for report in reports]
    assert {suite.attrib["skipped"] for suite in suites} == {"0"}


def test_an_empty_project_has_it_by_its_dependency(tmp_path: Path) -> None:
    (dependency,) = re.findall(r"```xml\n(.*?)```", (HOME / "README.md").read_text(), flags=re.DOTALL)
    (tmp_path / "src" / "main" / "java").mkdir(parents=True)
    shutil.copy(HOME / "examples" / "Bot.java", tmp_path / "src" / "main" / "java")
    (tmp_path / "pom.xml").write_text(_POM.format(dependency=dependency))
    command = ["mvn", "-q", "-B", "compile", "dependency:build-classpath"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "target" / "classes" / "Bot.class").exists()
