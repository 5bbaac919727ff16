"""`make run`: kept up, called as it says, stopped."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.authserver.consumer import Consumer
from tests.demo.stage import development_folder
from tests.demo.story import NotAsSaid
from tests.ops.ports import free_port
from tokenvault_sidecar import devkit
from tokenvault_sidecar.config import load_config
from tokenvault_sidecar.devkit import Development


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as an earlier run would have left it, with other ports."""
    issuer = f"http://127.0.0.1:{free_port()}"
    callback = f"127.0.0.1:{free_port()}"
    settings = Development(
        issuer=issuer,
        redirect_uris=(f"http://{callback}/callback/acme",),
        listen=("127.0.0.1:0",),
        ops_listen="127.0.0.1:0",
        callback_listen=callback,
    )
    devkit.init(tmp_path / "run", settings)
    return tmp_path / "run"


def keep(folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.demo", "--keep", "--folder", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextmanager
def kept(folder: Path) -> Iterator[str]:
    """What it says, while it is up; then it is stopped by SIGTERM."""
    with keep(folder) as process:
        assert process.stdout is not None
        told = ""
        for line in process.stdout:
            told += line
            if line.startswith("Ctrl-C"):
                break
        try:
            yield told
        finally:
            process.send_signal(signal.SIGTERM)
            _, complaint = process.communicate(timeout=60)
    assert (process.returncode, complaint) == (0, "")


def test_what_it_prints_is_how_to_call_it(folder: Path) -> None:
    with kept(folder) as told:
        exports = dict(re.findall(r"^  export (\w+)=(.+)$", told, re.MULTILINE))
        assert set(exports) == {f"TOKENVAULT_{name}" for name in ("ADDRESS", "CA", "CERT", "KEY")}
        code = told.split("--------\n")[1]
        assert (folder / "bot.py").read_text() == code
        assert f"python {folder}/bot.py" in told
        bot = [sys.executable, "-c", code]
        with subprocess.Popen(
            bot, env=os.environ | exports, stdout=subprocess.PIPE, text=True, bufsize=1
        ) as first:
            assert first.stdout is not None
            link = first.stdout.readline().removeprefix("Log in here: ").strip()
            shown = asyncio.run(Consumer().come_back(link, "alice"))
            assert "You are logged in" in shown.text
            said, _ = first.communicate(timeout=60)
        assert said == "The brand's API answers 200\n"
        again = subprocess.run(bot, env=os.environ | exports, capture_output=True, text=True, timeout=60)
        assert (again.stdout, again.stderr) == ("The brand's API answers 200\n", "")
    address = exports["TOKENVAULT_ADDRESS"].rpartition(":")
    with socket.socket() as probe:
        assert probe.connect_ex((address[0], int(address[2]))) != 0


def test_the_folder_is_used_again(folder: Path) -> None:
    before = (folder / "tokenvault.toml").read_text(), (folder / "kek").read_text()
    with kept(folder) as told:
        assert "kept from before" in told
        assert "dropped" not in told
    with kept(folder) as told:
        assert "the grants of last time are dropped" in told
    assert before == ((folder / "tokenvault.toml").read_text(), (folder / "kek").read_text())


def test_a_taken_port_is_named(folder: Path) -> None:
    issuer = load_config(folder / "tokenvault.toml").brands["acme"].issuer.removeprefix("http://")
    host, _, port = issuer.rpartition(":")
    (folder / "tokenvault.db").write_text("of the one that runs")
    with socket.socket() as taken:
        taken.bind((host, int(port)))
        taken.listen()
        with keep(folder) as process:
            _, complaint = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"{issuer} cannot be listened on: Address already in use" in complaint
    assert (folder / "tokenvault.db").read_text() == "of the one that runs"


def test_a_sidecar_that_cannot_start_is_heard(folder: Path) -> None:
    (folder / "kek").write_text("none")
    with keep(folder) as process:
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "keys.kek_file" in complaint


def test_another_authorization_server_is_not_played(folder: Path) -> None:
    config = folder / "tokenvault.toml"
    config.write_text(re.sub(r'issuer = ".*"', 'issuer = "https://login.acme.example"', config.read_text()))
    with keep(folder) as process:
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"{config} has no brand acme with an authorization server at http://127.0.0.1:PORT" in complaint


def test_the_folder_is_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "build" / "run"
    assert development_folder(folder)
    assert not development_folder(folder)
    (folder / "tokenvault.toml").unlink()
    with pytest.raises(NotAsSaid, match="delete it"):
        development_folder(folder)
