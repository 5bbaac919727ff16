"""The systemd unit: understood by systemd, sandboxed, and fitting the configuration on its page."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.dockerfile import ROOT
from tests.running import SidecarProcess
from tokenvault_sidecar import devkit
from tokenvault_sidecar.config import load_config

UNIT = (ROOT / "deploy" / "systemd" / "tokenvault.service").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
CREDENTIALS = "/run/credentials/tokenvault.service"
EXPOSURE = 15
"""In tenths, of 100: what is over `threshold` is not safe enough. A service without a sandbox has 96."""

# Runs the command where memory is either writable or executable, as MemoryDenyWriteExecute has it.
_DENIED = """
import ctypes, os, sys
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
if ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0):
    sys.exit("unknown to this kernel")
os.execvp(sys.argv[1], sys.argv[1:])
"""
DENIED = (sys.executable, "-c", _DENIED)


def values(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT, re.M)


def analyze(*words: str, unit: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """What systemd-analyze says of this unit, with a program that is there in the place of the sidecar's."""
    analyzer = shutil.which("systemd-analyze")
    if analyzer is None:
        pytest.skip(
            "DID NOT RUN: this machine has no systemd-analyze, so systemd was not asked about the unit"
        )
    file = folder / "tokenvault.service"
    file.write_text(unit.replace("/opt/tokenvault/bin/tokenvault", "/bin/true"))
    return subprocess.run(
        [analyzer, *words, str(file)], capture_output=True, text=True, check=False, timeout=60
    )


def test_systemd_understands_it(tmp_path: Path) -> None:
    done = analyze("verify", "--man=no", unit=UNIT, folder=tmp_path)
    assert (done.returncode, "tokenvault.service" in done.stderr) == (0, False), done.stderr


def test_a_key_that_systemd_does_not_know_is_found(tmp_path: Path) -> None:
    broken = UNIT.replace("ProtectHome=", "ProtectHouse=")
    assert "ProtectHouse" in analyze("verify", "--man=no", unit=broken, folder=tmp_path).stderr


def test_it_is_sandboxed(tmp_path: Path) -> None:
    words = ("security", "--offline=true", f"--threshold={EXPOSURE}")
    done = analyze(*words, unit=UNIT, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    open_one = re.sub(r"^(SystemCallFilter|CapabilityBoundingSet)=.*\n", "", UNIT, flags=re.M)
    assert analyze(*words, unit=open_one, folder=tmp_path).returncode != 0


def test_it_serves_where_memory_is_writable_or_executable(tmp_path: Path) -> None:
    tried = subprocess.run([*DENIED, "true"], check=False, capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"DID NOT RUN: memory denied as by MemoryDenyWriteExecute: {tried.stderr.strip()}")
    settings = devkit.Development(
        issuer="https://login.invalid",
        listen=("127.0.0.1:0",),
        ops_listen="127.0.0.1:0",
        callback_listen="127.0.0.1:0",
    )
    with SidecarProcess(devkit.init(tmp_path / "vault", settings)[-1], prefix=DENIED) as sidecar:
        assert sidecar.addresses


def test_the_pages_configuration_goes_with_it(tmp_path: Path) -> None:
    [text] = re.findall(r"```toml\n(\[server\]\n.*?)```", PAGE, re.S)
    here = tmp_path / "credentials"
    here.mkdir()
    credentials = [value.partition(":")[0] for value in values("LoadCredential")]
    for name in credentials:
        (here / name).write_text("x" * 44)
        (here / name).chmod(0o600)
    (tmp_path / "clients.pem").write_text("x")
    assert sorted(re.findall(rf'"{CREDENTIALS}/(.+)"', text)) == sorted(credentials), (
        "none missing, none idle"
    )
    text = text.replace(CREDENTIALS, str(here)).replace("/etc/tokenvault/", f"{tmp_path}/")
    state = f"/var/lib/{values('StateDirectory')[0]}/"
    text = text.replace(state, f"{tmp_path}/")
    (tmp_path / "tokenvault.toml").write_text(text)
    config = load_config(tmp_path / "tokenvault.toml")
    assert config.store.file == tmp_path / "vault.db", "in the folder that systemd makes for it"
    assert config.server.drain_timeout < int(values("TimeoutStopSec")[0])


def test_the_pages_commands_use_what_the_unit_reads() -> None:
    section = PAGE.partition("## On a machine with systemd")[2].partition("\n## ")[0]
    for value in values("LoadCredential"):
        folder, _, name = value.partition(":")[2].rpartition("/")
        assert f"{folder}/" in section
        assert f"`{name}`" in section or f"/{name}" in section
    [started] = values("ExecStart")
    assert started == "/opt/tokenvault/bin/tokenvault serve --config /etc/tokenvault/tokenvault.toml"
