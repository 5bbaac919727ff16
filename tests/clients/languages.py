"""Which languages there are, and how each one's driver is started."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.authserver.node import NodeMissing, ensure_installed

DRIVERS = Path(__file__).parent / "drivers"


class NotHere(Exception):
    """This language's toolchain is not on this machine; says what is missing."""


class CannotBuild(Exception):
    """The driver could not be built; says why."""


@dataclass(frozen=True, slots=True)
class Language:
    """`build` returns the driver's command, having built what must be. Raises NotHere, CannotBuild.

    `has_source`: whether it has a token source; else the steps that need one are not played.
    """

    name: str
    build: Callable[[], list[str]]
    has_source: bool = True


def tool(name: str) -> str:
    """Where a program is. Raises NotHere."""
    found = shutil.which(name)
    if found is None:
        raise NotHere(f"{name} is not installed")
    return found


def _python() -> list[str]:
    return [sys.executable, str(DRIVERS / "python.py")]


def _node() -> list[str]:
    try:
        return [ensure_installed(Path("client/node")).executable, str(DRIVERS / "node.mjs")]
    except NodeMissing as problem:
        raise CannotBuild(str(problem)) from None


def _go() -> list[str]:
    driver = Path("build/go-driver").resolve()
    driver.parent.mkdir(exist_ok=True)
    # inside client/go, for its module; no version-control stamps: a checkout may be another user's
    _run(tool("go"), "build", "-buildvcs=false", "-o", driver, DRIVERS / "go.go", folder="client/go")
    return [str(driver)]


def _java() -> list[str]:
    built = Path("build/java").resolve()
    classpath, driver = built / "classpath", built / "driver"
    java, javac, maven = tool("java"), tool("javac"), tool("mvn")
    _run(maven, *_MAVEN, f"-Dmdep.outputFile={classpath}", folder="client/java")
    path = f"{driver}:{built / 'classes'}:{classpath.read_text().strip()}"
    _run(javac, "-cp", path, "-d", driver, DRIVERS / "Driver.java", folder=".")
    return [java, "-cp", path, "Driver"]


_MAVEN = ("-q", "-B", "-DskipTests", "compile", "dependency:build-classpath")


def _run(*command: str | Path, folder: str) -> None:
    """Raises CannotBuild."""
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if built.returncode:
        raise CannotBuild((built.stdout + built.stderr).strip())


ALL = (Language("Python", _python), Language("Node", _node), Language("Go", _go), Language("Java", _java))
