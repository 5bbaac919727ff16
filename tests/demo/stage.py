"""What a demo plays on: an authorization server and a sidecar, as processes, and a folder for both."""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from tests.authserver.clients import BASIC, Registration
from tests.authserver.node import ensure_installed
from tests.authserver.oidc import OidcProvider
from tests.demo.story import NotAsSaid, Story
from tests.ops.ports import free_port
from tests.running import SidecarProcess, make_config
from tokenvault_sidecar import devkit
from tokenvault_sidecar.config import Config, load_config
from tokenvault_sidecar.devkit.start import CONFIG_FILE

BRAND = "acme"


@dataclass(frozen=True, slots=True)
class Stage:
    """Both processes run while the stage stands."""

    provider: OidcProvider
    sidecar: SidecarProcess

    @property
    def folder(self) -> Path:
        """The development folder: certificates, configuration, store, logs."""
        return self.sidecar.folder


@contextmanager
def fresh_stage(story: Story, *, access_token_ttl: int = 3) -> Iterator[Stage]:
    """A stage of its own on free ports, of which nothing is left. Raises StepFailed."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tokenvault-demo-")))
        with story.step("The brand's authorization server starts: oidc-provider, a real one.") as says:
            ensure_installed()
            callback = f"127.0.0.1:{free_port()}"
            registration = replace(BASIC, redirect_uris=(f"http://{callback}/callback/{BRAND}",))
            provider = stack.enter_context(
                OidcProvider(registrations=[registration], access_token_ttl=access_token_ttl)
            )
            says(f"{provider.issuer}, process {provider.pid}")
            says(f"its access tokens live {access_token_ttl} seconds, its refresh tokens work once")
        with story.step("A development folder is made, as by `tokenvault init`.") as says:
            config = make_config(
                folder / "vault", provider, registration, brand=BRAND, callback_listen=callback
            )
            says("a certificate each for the sidecar, the bot and the brand service; a key; a configuration")
        with story.step("The sidecar starts: `tokenvault serve --config tokenvault.toml`.") as says:
            sidecar = stack.enter_context(SidecarProcess(config))
            says(f"{sidecar.address}, process {sidecar.pid}, mutual TLS only")
            says(f"{callback} is for browsers that come back")
        yield Stage(provider, sidecar)


@contextmanager
def kept_stage(story: Story, folder: Path, *, access_token_ttl: int = 300) -> Iterator[Stage]:
    """A stage whose folder stays: made at the first time, then used as it is. Raises StepFailed."""
    with ExitStack() as stack:
        with story.step(f"The development folder is {folder}.") as says:
            says("made anew" if development_folder(folder) else "kept from before; delete it to start anew")
            config = load_config(folder / CONFIG_FILE)
            port, registration = _authorization_server(config, folder)
            for address in (f"127.0.0.1:{port}", *config.server.listen):
                _must_be_free(address)
            if _drop_grants(folder):
                says("the grants of last time are dropped: the authorization server has forgotten them, too")
        with story.step("The authorization server starts.") as says:
            ensure_installed()
            provider = stack.enter_context(
                OidcProvider(registrations=[registration], access_token_ttl=access_token_ttl, port=port)
            )
            says(f"{provider.issuer}; its access tokens live {access_token_ttl} seconds")
        with story.step("The sidecar starts.") as says:
            sidecar = SidecarProcess(folder / CONFIG_FILE)
            for log in (sidecar.stdout, sidecar.stderr):
                log.unlink(missing_ok=True)
            stack.enter_context(sidecar)
            says(f"{', '.join(sidecar.addresses)}, process {sidecar.pid}, its log is {sidecar.stderr}")
        yield Stage(provider, sidecar)


def development_folder(folder: Path) -> bool:
    """Make it unless it is there; whether it was made. Raises NotAsSaid."""
    if (folder / CONFIG_FILE).exists():
        return False
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        devkit.init(folder)
    except (devkit.AlreadyThere, devkit.CannotWrite, OSError) as problem:
        raise NotAsSaid(f"it cannot be made: {problem}: delete it, or name another") from None
    return True


def _drop_grants(folder: Path) -> bool:
    """Delete the store, if there is one: the authorization server keeps everything in memory."""
    files = [*folder.glob("tokenvault.db*")]
    for file in files:
        file.unlink()
    return bool(files)


def _authorization_server(config: Config, folder: Path) -> tuple[int, Registration]:
    """The port that the configuration expects it at, and this client's registration there."""
    brand = config.brands.get(BRAND)
    issuer = urlsplit(brand.issuer) if brand else None
    if not brand or not issuer or issuer.scheme != "http" or issuer.hostname != "127.0.0.1":
        raise NotAsSaid(
            f"{folder / CONFIG_FILE} has no brand {BRAND} with an authorization server at "
            "http://127.0.0.1:PORT: start it by `tokenvault serve`, or delete the folder"
        )
    secret = brand.client_secret
    return issuer.port or 80, Registration(
        brand.client_id,
        secret=secret.reveal() if secret else None,
        auth_method=brand.client_auth,
        redirect_uris=brand.redirect_uris,
    )


def _must_be_free(address: str) -> None:
    if address.startswith("unix:"):
        return
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            raise NotAsSaid(
                f"{address} cannot be listened on: {os.strerror(error.errno or 0)}: "
                "end what listens there, perhaps another `make run`"
            ) from None
