"""The image's build without a container engine: the same commands, in a folder that stands for its root."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.deploy.dockerfile import ROOT, Step

PLACES = ("/build", "/opt/tokenvault")
"""Where the Dockerfile writes; in its commands these become folders below `root`."""

_KNOWN = {"FROM", "ENV", "WORKDIR", "RUN", "COPY"}
_PLACE = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, PLACES))})(?=[/\s]|$)")


class StepFailed(Exception):
    """A step of the build; holds what it said."""


class ImageBuild:
    """The build stage, taken step by step below `root`. `prefix` is what each command is run by."""

    def __init__(self, root: Path, prefix: Sequence[str] = ()) -> None:
        self.root = root
        self._prefix = prefix
        self._environment = os.environ | {"HOME": str(root), "TMPDIR": str(root / "tmp")}
        # `python` in the image is the base's: here the interpreter below the workspace's environment.
        self._environment["PATH"] = f"{root}/bin:{os.environ['PATH']}"
        for name in ("PYTHONPATH", "VIRTUAL_ENV"):
            self._environment.pop(name, None)
        self._folder = root
        for folder in ("bin", "tmp", "opt"):
            (root / folder).mkdir()
        (root / "bin" / "python").symlink_to(Path(sys.base_prefix) / "bin" / "python3")

    def take(self, step: Step) -> None:
        """Raises StepFailed, and ValueError for an instruction that means something this does not know."""
        if step.instruction not in _KNOWN:
            raise ValueError(f"{step.instruction} is not understood here")
        if step.instruction == "ENV":
            self._environment |= step.pairs
        elif step.instruction == "WORKDIR":
            self._folder = Path(self.moved(step.text))
            self._folder.mkdir(parents=True, exist_ok=True)
        elif step.instruction == "COPY":
            *sources, target = step.words
            for source in sources:
                self._copy(ROOT / source, Path(self.moved(target)), into=target.endswith("/"))
        elif step.instruction == "RUN":
            self._run(self.moved(step.text))

    def moved(self, command: str) -> str:
        """The command with the image's folders below `root`."""
        return _PLACE.sub(lambda found: f"{self.root}{found[1]}", command)

    def _copy(self, source: Path, target: Path, *, into: bool) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if into:
            target.mkdir(exist_ok=True)
            shutil.copy(source, target)
        else:
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))

    def _run(self, command: str) -> None:
        done = subprocess.run(
            [*self._prefix, "sh", "-c", f'cd "{self._folder}" && {command}'],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StepFailed(f"{command}\nended with status {done.returncode}:\n{done.stdout[-3000:]}")
