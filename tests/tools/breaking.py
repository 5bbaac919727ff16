"""`buf breaking`: the contract against the last release; before the first one, against what main had before.

Where git or its history is missing it does not run, and says so.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tests.tools.generate import PROTO

_BUF = Path(sys.executable).parent / "buf"


def git(*arguments: str) -> str | None:
    """What it says, or None where it fails or is not here."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def base() -> str | None:
    """What to compare with: a tag or a commit, never the one that is checked out."""
    head = git("rev-parse", "HEAD")
    for newest in ("HEAD", "HEAD^"):
        tag = git("describe", "--tags", "--abbrev=0", newest)
        if tag and git("rev-parse", f"{tag}^{{commit}}") != head:
            return tag
    for branch in ("main", "origin/main"):
        common = git("merge-base", "HEAD", branch)
        if common and common != head:
            return common
    return git("rev-parse", "--verify", "HEAD^")


def main() -> int:
    before = base()
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "before.zip"
        if before is None or git("archive", "-o", str(archive), before, str(PROTO)) is None:
            print("=== DID NOT RUN: buf breaking, which needs git and the history of proto/", file=sys.stderr)
            return 0
        with zipfile.ZipFile(archive) as kept:
            kept.extractall(folder)
        print(f"buf breaking against {before}")
        against = Path(folder) / PROTO
        return subprocess.run([_BUF, "breaking", PROTO, "--against", against]).returncode


if __name__ == "__main__":
    sys.exit(main())
