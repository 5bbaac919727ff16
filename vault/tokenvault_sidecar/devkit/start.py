"""`tokenvault init`: a folder with all a sidecar needs to start on a developer's machine."""

import base64
import os
import secrets
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from tokenvault_sidecar.config import to_toml
from tokenvault_sidecar.devkit.authority import DevelopmentCA

CONFIG_FILE = "tokenvault.toml"
_PRIVATE, _PUBLIC = 0o600, 0o644


@dataclass(frozen=True, slots=True)
class Development:
    """What the development configuration says of its one brand, and where the vault listens.

    `client_secret` None makes a random one. The callers' identities are fixed:
    `spiffe://tokenvault.test/bot` and `spiffe://tokenvault.test/brand-service`.
    """

    brand: str = "acme"
    issuer: str = "http://127.0.0.1:9400"
    client_id: str = "tokenvault"
    client_secret: str | None = None
    redirect_uris: tuple[str, ...] = ("http://127.0.0.1:7481/callback/acme",)
    consumer_scopes: tuple[str, ...] = ("openid", "offline_access")
    conversation_scopes: tuple[str, ...] = ("openid",)
    listen: tuple[str, ...] = ("127.0.0.1:7443",)
    ops_listen: str = "127.0.0.1:7480"
    callback_listen: str = "127.0.0.1:7481"


DEFAULT = Development()


class AlreadyThere(Exception):
    """Files that would be overwritten; nothing was."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        super().__init__(", ".join(map(str, paths)))
        self.paths = paths


class CannotWrite(Exception):
    """The folder or a file in it cannot be made; says why. Nothing is left of the attempt."""


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    mode: int


def init(directory: Path, development: Development = DEFAULT) -> tuple[Path, ...]:
    """Make the files in the folder, itself made (mode 0700) where it is missing; their paths.

    All or none: raises AlreadyThere where one of them exists, and CannotWrite.
    Private files have mode 0600. The configuration comes last: where it is,
    all is.
    """
    files = {directory / name: file for name, file in _files(development).items()}
    if there := tuple(path for path in files if os.path.lexists(path)):
        raise AlreadyThere(there)
    try:
        with ExitStack() as undo:
            if not directory.exists():
                directory.mkdir(mode=0o700)
                undo.callback(directory.rmdir)
            for path, file in files.items():
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file.mode)
                undo.callback(path.unlink)
                with os.fdopen(descriptor, "wb") as stream:
                    stream.write(file.content)
            undo.pop_all()
    except OSError as error:
        raise CannotWrite(f"{directory} cannot be made or written to: {error.strerror}") from None
    return tuple(files)


def render_config(development: Development = DEFAULT) -> str:
    """The text of the configuration."""
    template = Template(
        resources.files("tokenvault_sidecar.devkit").joinpath("tokenvault.toml.template").read_text("utf-8")
    )
    return template.substitute(
        brand=development.brand,
        brands=to_toml([development.brand]),
        issuer=to_toml(development.issuer),
        client_id=to_toml(development.client_id),
        redirect_uris=to_toml(development.redirect_uris),
        consumer_scopes=to_toml(development.consumer_scopes),
        conversation_scopes=to_toml(development.conversation_scopes),
        listen=to_toml(development.listen),
        ops_listen=to_toml(development.ops_listen),
        callback_listen=to_toml(development.callback_listen),
    )


def _files(development: Development) -> Mapping[str, _File]:
    ca = DevelopmentCA.create("tokenvault development CA")
    server = ca.issue(name="tokenvault", dns=["localhost"], ips=["127.0.0.1", "::1"])
    bot = ca.issue(name="bot", uris=["spiffe://tokenvault.test/bot"])
    service = ca.issue(name="brand-service", uris=["spiffe://tokenvault.test/brand-service"])
    client_secret = development.client_secret or secrets.token_urlsafe(32)
    return {
        "ca.pem": _File(ca.certificate_pem, _PUBLIC),
        "ca.key.pem": _File(ca.private_key_pem, _PRIVATE),
        "server.pem": _File(server.certificate_pem, _PUBLIC),
        "server.key.pem": _File(server.private_key_pem, _PRIVATE),
        "bot.pem": _File(bot.certificate_pem, _PUBLIC),
        "bot.key.pem": _File(bot.private_key_pem, _PRIVATE),
        "brand-service.pem": _File(service.certificate_pem, _PUBLIC),
        "brand-service.key.pem": _File(service.private_key_pem, _PRIVATE),
        "kek": _File(base64.b64encode(secrets.token_bytes(32)) + b"\n", _PRIVATE),
        "client-secret": _File(client_secret.encode() + b"\n", _PRIVATE),
        CONFIG_FILE: _File(render_config(development).encode(), _PUBLIC),
    }
