"""A disk so small that a test can fill it: a file system in memory.

For root, where the kernel lets it: `small_disk` raises `NotHere` elsewhere.
"""

import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.postgres.far import NotHere


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """Mounted at `folder`."""

    folder: Path

    def fill(self) -> None:
        """From now on not a byte more fits."""
        with self._ballast.open("ab", buffering=0) as file:
            try:
                while file.write(bytes(1 << 20)):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def free(self) -> None:
        self._ballast.unlink()

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"


@contextmanager
def small_disk(*, megabytes: int) -> Iterator[SmallDisk]:
    """While the block lasts. Raises NotHere."""
    if os.geteuid() != 0:
        raise NotHere("only root mounts file systems")
    with tempfile.TemporaryDirectory(prefix="tv-disk-") as folder:
        _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0711", "tokenvault-test", folder)
        try:
            yield SmallDisk(Path(folder))
        finally:
            _run("umount", "--lazy", folder)


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotHere(f"{words[0]}: {done.stderr.strip()}")
