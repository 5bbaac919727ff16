"""The example as processes: its sidecar serves what is mounted to whom it should, and answers its probes."""

import base64
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deploy.manifests import Manifest, rendered
from tests.deploy.mounted import BOT, BRAND_SERVICE, SIDECAR, config_file, container, issue, lay_out
from tests.e2e.vaults import Whose
from tests.ops.ports import free_port
from tests.running import COMMAND, SidecarProcess
from tokenvault import GrantNotFound, PolicyDenied, TokenVaultClient

SECRETS = {
    "tokenvault-kek": {"kek": base64.b64encode(b"k" * 32)},
    "tokenvault-brands": {"acme": b"client secret"},
}


@contextmanager
def running(manifests: list[Manifest], root: Path) -> Iterator[SidecarProcess]:
    """The sidecar, and what its callers have mounted; on ports that are free here."""
    secrets = {**issue(manifests), **SECRETS}
    for where in (SIDECAR, BOT, BRAND_SERVICE):
        lay_out(manifests, where, root, secrets)
    config = config_file(manifests, root)
    text = config.read_text()
    for port, here in (("0.0.0.0:7443", "127.0.0.1:0"), (":7480", f":{free_port()}")):
        assert port in text
        text = text.replace(port, here)
    config.write_text(text)
    with SidecarProcess(config) as sidecar:
        yield sidecar


def client(
    manifests: list[Manifest], where: tuple[str, str], root: Path, sidecar: SidecarProcess
) -> TokenVaultClient:
    """As that container's environment has it, but for the address, whose name is only expected."""
    said = {entry["name"]: entry["value"] for entry in container(manifests, where)["env"]}
    files = {key: root / said[f"TOKENVAULT_{key}"].removeprefix("/") for key in ("CA", "CERT", "KEY")}
    return TokenVaultClient(
        sidecar.address,
        ca=files["CA"],
        certificate=files["CERT"],
        private_key=files["KEY"],
        server_name=said["TOKENVAULT_ADDRESS"].rpartition(":")[0],
        timeout=30,
    )


def probe(manifests: list[Manifest], config: Path, which: str) -> "subprocess.CompletedProcess[str]":
    program, *arguments = container(manifests, SIDECAR)[which]["exec"]["command"]
    assert program == "tokenvault"
    arguments[arguments.index("--config") + 1] = str(config)
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_the_examples_callers_reach_its_sidecar_and_get_what_is_theirs(tmp_path: Path) -> None:
    manifests = rendered("example")
    with running(manifests, tmp_path) as sidecar:
        with client(manifests, BOT, tmp_path, sidecar) as bot:
            for context in (Whose(consumer="c-1"), Whose(conversation="c-1")):
                with pytest.raises(GrantNotFound):
                    bot.get_token("acme", **context)
        with client(manifests, BRAND_SERVICE, tmp_path, sidecar) as service:
            with pytest.raises(GrantNotFound):
                service.get_token("acme", consumer="c-1")
            with pytest.raises(PolicyDenied):
                service.get_token("acme", conversation="c-1")
            with pytest.raises(PolicyDenied):
                service.invalidate("acme", consumer="c-1")
        assert '"event": "config"' not in sidecar.stderr.read_text()  # no warning of its files


def test_its_probes_tell_whether_it_is_ready(tmp_path: Path) -> None:
    manifests = rendered("example")
    with running(manifests, tmp_path) as sidecar:
        for which in ("startupProbe", "readinessProbe"):
            done = probe(manifests, sidecar.config, which)
            assert done.returncode == 0, done.stderr
    assert probe(manifests, sidecar.config, "readinessProbe").returncode == 1
