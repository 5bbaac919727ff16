"""What is wired for those who run the sidecar: its readiness, and a port of its own to ask at."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from tokenvault_sidecar.adapters.sqlite import SqliteStore
from tokenvault_sidecar.api.server import CannotListen
from tokenvault_sidecar.config import Config
from tokenvault_sidecar.core.vault import Vault
from tokenvault_sidecar.ops.checks import CertificateFile, certificate_valid, keys_open
from tokenvault_sidecar.ops.readiness import Readiness
from tokenvault_sidecar.ops.server import OpsServer, probes


class Operations:
    """Made, then `start`ed; told when the drain begins; `stop`ped last."""

    def __init__(
        self, config: Config, store: SqliteStore, vault: Vault, tell: Callable[[bool], Awaitable[None]]
    ) -> None:
        """`tell` is called with whether calls can be served, whenever that changes. Raises CannotListen."""
        certificate = CertificateFile(config.server.certificate_file)
        self._readiness = Readiness(
            {
                "store": store.probe,
                "keys": keys_open(store.get_keys, lambda: vault.sealer.active),
                "certificate": certificate_valid(certificate, vault.clock),
            },
            tell,
        )
        self._server = _listen(config.ops.listen, self._readiness) if config.ops else None
        self._watching: asyncio.Task[None] | None = None

    @property
    def address(self) -> str | None:
        """Where it can be asked; None where the configuration has no such port."""
        return self._server.address if self._server else None

    async def start(self) -> None:
        """Look for the first time, then every few seconds, and answer."""
        await self._readiness.problems()
        self._watching = asyncio.get_running_loop().create_task(self._readiness.watch(), name="readiness")
        if self._server is not None:
            self._server.start()

    async def drain(self) -> None:
        """Not ready from now on, and still there to say so."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
        await self._readiness.stop()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop()


def _listen(address: str, readiness: Readiness) -> OpsServer:
    try:
        return OpsServer.listen(address, probes(readiness))
    except OSError as error:
        raise CannotListen(f"ops.listen: cannot listen on {address}: {error.strerror}") from None
