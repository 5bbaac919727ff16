"""An authorization server, and two sidecars on one store: one takes consumers back, bots call the other."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.authserver import clients
from tests.authserver.oidc import OidcProvider
from tests.e2e.vaults import brand, make_vault, running
from tests.ops.ports import free_port
from tests.running import SidecarProcess

PATH = "/callback/{brand}/redirectCode"


@dataclass
class House:
    """What runs: `front` takes consumers back."""

    front: SidecarProcess
    inner: SidecarProcess

    @property
    def logs(self) -> str:
        return "".join(process.stderr.read_text() for process in (self.front, self.inner))


@asynccontextmanager
async def running_house(folder: Path, **keys: Any) -> AsyncIterator[House]:
    """The house of the brand "acme", with these keys in its table, while the block lasts."""
    address = f"127.0.0.1:{free_port()}"
    uri = f"http://{address}{PATH.format(brand='acme')}"
    registration = replace(clients.BASIC, redirect_uris=(uri,))
    async with OidcProvider(registrations=[registration]) as provider:
        table = brand(folder, provider.issuer, registration, page={"name": "Acme Stores"}, **keys)
        config = make_vault(folder, {"acme": table}, callback={"listen": address, "path": PATH})
        inner = config.with_name("inner.toml")
        inner.write_text(config.read_text().replace(address, "127.0.0.1:0", 1))
        logs = folder / "inner"
        logs.mkdir()
        async with running(config) as front, running(inner, logs=logs) as within:
            yield House(front, within)
