"""Running a command as a user without rights, where the whole file system is read-only but for one folder."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534

# In a mount namespace of its own; $1: the folder that stays writable, $2: a folder that must not be, $3: an
# ancestor of the interpreter that only root may enter, else "", $4: the interpreter's home. Then the command.
_CONFINE = """
set -e
data=$1 other=$2 closed=$3 home=$4; shift 4
mount --make-rprivate /
if [ -n "$closed" ]; then
    mount --bind "$home" "$data"
    mount -t tmpfs -o mode=755 tmpfs "$closed"
    mkdir -p "$home"
    mount --move "$data" "$home"
fi
mount --bind "$data" "$data"
mount -t tmpfs -o ro tmpfs /dev/shm
mount -o remount,bind,ro /
if touch "$other/written" 2>/dev/null; then echo "$other is not read-only" >&2; exit 97; fi
exec setpriv --reuid NOBODY --regid NOBODY --clear-groups "$@"
""".replace("NOBODY", str(NOBODY))


@contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder below ones that everybody may enter: pytest's are for its own user only."""
    folder = Path(tempfile.mkdtemp(prefix="tokenvault-test-"))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder)


def hand_over(folder: Path) -> None:
    """Make all in it nobody's."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)


def confined(*, data: Path, read_only: Path) -> tuple[str, ...]:
    """The prefix that runs a command so; skips the test where this machine does not let us."""
    missing = [tool for tool in ("unshare", "mount", "setpriv") if shutil.which(tool) is None]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"needs root to become nobody, and {' '.join(missing) or 'mount namespaces'}")
    home = Path(sys.base_prefix)
    closed = [str(folder) for folder in home.parents if not folder.stat().st_mode & 0o001]
    places = (str(data), str(read_only), closed[-1] if closed else "", str(home))
    prefix = ("unshare", "--mount", "sh", "-c", _CONFINE, "sh", *places)
    tried = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"this machine lets nobody make a read-only root: {tried.stderr.strip()[-200:]}")
    return prefix
