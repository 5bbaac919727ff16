"""The sidecars on one store: started, killed, and started anew."""

import asyncio
import random
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.authserver.clients import BASIC
from tests.authserver.oidc import OidcProvider
from tests.postgres.server import PostgresServer, move_to
from tests.running import SidecarProcess, caller_files, make_config
from tokenvault import AsyncTokenVaultClient

BRAND = "acme"
DEADLINE = 1.0
"""Seconds a redemption may take."""
LEASE = 1.5
"""Seconds: what a dead process had leased is free again after these."""


@dataclass(slots=True)
class Incarnation:
    """One process from its start to its end. `name` is what the server's log calls it."""

    name: str
    process: SidecarProcess
    client: AsyncTokenVaultClient
    killed_at: float | None = None

    def log(self) -> str:
        """What it said on stderr."""
        return self.process.stderr.read_text()


class Fleet:
    """`size` sidecars on one development folder, while the `async with` block lasts.

    `token_endpoint` is where they reach the provider's.
    """

    def __init__(
        self,
        folder: Path,
        provider: OidcProvider,
        *,
        token_endpoint: str,
        size: int,
        server: PostgresServer | None = None,
    ) -> None:
        """`server`: their store is a database there, else a file in the folder."""
        self.config = make_config(folder / "vault", provider, BASIC, brand=BRAND)
        if server is not None:
            move_to(server, self.config)
        self._provider = provider
        self._token_endpoint = token_endpoint
        self._logs = folder / "logs"
        self._size = size
        self._up: list[Incarnation] = []
        self._changed = asyncio.Condition()
        self.incarnations: dict[str, Incarnation] = {}

    async def __aenter__(self) -> Self:
        for _ in range(self._size):
            await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for incarnation in self.incarnations.values():
            if incarnation.process.returncode is None:
                await asyncio.to_thread(incarnation.process.kill)
            await incarnation.client.close()

    @property
    def up(self) -> list[Incarnation]:
        """Those that run."""
        return list(self._up)

    async def start(self) -> Incarnation:
        """A new process, at once taking calls. Raises CannotStart."""
        name = str(len(self.incarnations))
        logs = self._logs / name
        logs.mkdir(parents=True)
        process = SidecarProcess(self._config_of(name), logs=logs)
        await asyncio.to_thread(process.start)
        client = AsyncTokenVaultClient(process.address, **caller_files(process.folder, "bot"))
        incarnation = Incarnation(name, process, client)
        self.incarnations[name] = incarnation
        async with self._changed:
            self._up.append(incarnation)
            self._changed.notify_all()
        return incarnation

    async def kill(self, incarnation: Incarnation) -> None:
        """SIGKILL."""
        self._up.remove(incarnation)
        incarnation.killed_at = time.time()
        await asyncio.to_thread(incarnation.process.kill)

    async def stop(self) -> list[int]:
        """End all that run as an operator would; their exit statuses."""
        stopping, self._up = self._up, []
        return [await asyncio.to_thread(incarnation.process.stop) for incarnation in stopping]

    async def some(self, chance: random.Random) -> Incarnation:
        """One that runs, as soon as there is one."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._up)
        return chance.choice(self._up)

    def _config_of(self, name: str) -> Path:
        """The development configuration with short times, and a token endpoint that tells who asks."""
        provider = self._provider
        text = self.config.read_text()
        for table, more in (
            ("[renewal]", f'redemption_deadline = "{DEADLINE * 1000:.0f}ms"\nlease = "{LEASE * 1000:.0f}ms"'),
            (
                f"[brands.{BRAND}]",
                f'authorization_endpoint = "{provider.authorization_endpoint}"\n'
                f'token_endpoint = "{self._token_endpoint}?by={name}"\n'
                f'revocation_endpoint = "{provider.revocation_endpoint}"\n'
                f'jwks_uri = "{provider.jwks_uri}"\n'
                "sends_iss = true",
            ),
        ):
            before, found, after = text.partition(f"\n{table}\n")
            assert found, f"the development configuration has no {table}"
            text = f"{before}{found}{more}\n{after}"
        path = self.config.with_name(f"sidecar-{name}.toml")
        path.write_text(text)
        return path
