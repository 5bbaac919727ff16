"""Keys of each kind of source, made for a test: in a file, on a SoftHSM2 token, in moto's KMS on loopback."""

import base64
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import pytest

from tests.ops.ports import free_port

PIN = "canary-pin-4711"
_MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so")
_STARTING = 60.0


@dataclass(frozen=True)
class Key:
    """Its URI for `keys.kek`, and what a process needs in its environment to use it."""

    uri: str
    environment: dict[str, str]


class Sources:
    """Makes keys; `kms_url` is where moto answers."""

    def __init__(self, folder: Path, kms_url: str) -> None:
        self._folder = folder
        self.kms_url = kms_url

    def file(self, name: str) -> Key:
        path = self._folder / name
        path.touch(mode=0o600)
        path.write_bytes(base64.b64encode(os.urandom(32)))
        return Key(f"file:{path}", {})

    def pkcs11(self, name: str) -> Key:
        """On one token for all. This process reaches it by SoftHSM's settings in its environment."""
        import pkcs11

        module = hsm_module()
        pin = self._folder / "pin"
        if not pin.exists():
            pin.touch(mode=0o600)
            pin.write_text(PIN + "\n")
            subprocess.run(
                [
                    "softhsm2-util",
                    "--init-token",
                    "--free",
                    "--label",
                    "vault",
                    "--pin",
                    PIN,
                    "--so-pin",
                    PIN,
                ],
                check=True,
                capture_output=True,
            )
            pkcs11.lib(module).reinitialize()
        token = pkcs11.lib(module).get_token(token_label="vault")
        with token.open(rw=True, user_pin=PIN) as session:
            flags = pkcs11.MechanismFlag.WRAP | pkcs11.MechanismFlag.UNWRAP
            session.generate_key(pkcs11.KeyType.AES, 256, label=name, store=True, capabilities=flags)
        uri = f"pkcs11:token=vault;object={name}?module-path={module}&pin-source=file:{pin}"
        return Key(uri, {"SOFTHSM2_CONF": os.environ["SOFTHSM2_CONF"]})

    def aws_kms(self, name: str) -> Key:
        import boto3

        client = boto3.client("kms", region_name="eu-central-1", endpoint_url=self.kms_url)
        made = client.create_key(Description=name)["KeyMetadata"]
        client.create_alias(AliasName=f"alias/{name}", TargetKeyId=made["KeyId"])
        uri = f"aws-kms:alias/{name}?region=eu-central-1&endpoint={self.kms_url}"
        return Key(uri, {})

    def make(self, scheme: str, name: str) -> Key:
        return {"file": self.file, "pkcs11": self.pkcs11, "aws-kms": self.aws_kms}[scheme](name)


def hsm_module() -> str:
    """SoftHSM2's library; where it is not installed the test does not run, and says so."""
    for module in _MODULES:
        if Path(module).is_file():
            return module
    pytest.skip("DID NOT RUN: SoftHSM2 is not installed (Debian's package softhsm2)")


def softhsm_settings(folder: Path) -> Path:
    """A file for SOFTHSM2_CONF, with a folder of its own for tokens."""
    tokens = folder / "tokens"
    tokens.mkdir()
    settings = folder / "softhsm2.conf"
    settings.write_text(f"directories.tokendir = {tokens}\nlog.level = ERROR\n")
    return settings


@contextmanager
def moto() -> Iterator[str]:
    """moto's server, in a process of its own; where it answers."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + _STARTING
        while not _answers(url):
            assert process.poll() is None, "moto's server ended"
            assert time.monotonic() < deadline, "moto's server does not start"
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    with suppress(URLError, ConnectionError):
        urllib.request.urlopen(f"{url}/moto-api/data.json", timeout=5).close()
        return True
    return False
