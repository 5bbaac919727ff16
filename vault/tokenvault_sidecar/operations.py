"""What is wired for those who run the sidecar: readiness, figures, and a port of its own to ask at."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from importlib.metadata import version

from tokenvault_sidecar.adapters.stores import ServedStore
from tokenvault_sidecar.config import Config
from tokenvault_sidecar.core.errors import VaultError
from tokenvault_sidecar.core.ports import Events, Stock
from tokenvault_sidecar.core.vault import Vault
from tokenvault_sidecar.http_server import HttpServer
from tokenvault_sidecar.ops.checks import CertificateFile, certificate_valid, keys_open
from tokenvault_sidecar.ops.gauges import Gauges, State
from tokenvault_sidecar.ops.metrics import Metrics
from tokenvault_sidecar.ops.readiness import Readiness
from tokenvault_sidecar.ops.server import figures, ops_server, probes
from tokenvault_sidecar.ops.sums import Figures, read


class Operations:
    """Made, then `start`ed; told when the drain begins; `stop`ped last."""

    def __init__(
        self,
        config: Config,
        store: ServedStore,
        vault: Vault,
        metrics: Metrics | None,
        tell: Callable[[bool], Awaitable[None]],
        *,
        shared: bool = False,
    ) -> None:
        """`tell` is called with whether calls can be served, whenever that changes. Raises CannotListen.

        `metrics` are shown on the port that [ops] names; where there is none, nothing is. `shared` is
        whether that port is another process's, which asks here.
        """
        self._store = store
        self._vault = vault
        self._certificate = CertificateFile(config.server.certificate_file)
        self._readiness = Readiness(
            {
                "store": store.probe,
                "keys": keys_open(store.get_keys, lambda: vault.sealer.active),
                "certificate": certificate_valid(self._certificate, vault.clock),
            },
            tell,
        )
        self._metrics = metrics
        self._gauges: Gauges | None = None
        self._server: HttpServer | None = None
        if config.ops is not None and metrics is not None:
            self._gauges = Gauges(metrics.registry, version("tokenvault-sidecar"), self._state, self._stock)
            if not shared:
                routes = [*probes(self.problems), figures(metrics.registry, self._refresh)]
                self._server = ops_server(config.ops.listen, routes)
        self._watching: asyncio.Task[None] | None = None

    @property
    def address(self) -> str | None:
        """Where it can be asked; None where the configuration has no such port."""
        return self._server.address if self._server else None

    async def problems(self) -> Mapping[str, str]:
        """What keeps calls from being served, by check."""
        return await self._readiness.problems()

    async def figures(self, *, stock: bool) -> Figures:
        """All metrics now; `stock` is whether what the store holds is among them, which must be counted."""
        if self._metrics is None or self._gauges is None:
            return []
        if stock:
            await self._refresh()
        self._gauges.shows_stock = stock
        return read(self._metrics.registry)

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

    async def _refresh(self) -> None:
        """Count the stock. A store that is away leaves the other figures."""
        if self._gauges is not None:
            with suppress(VaultError):
                await self._gauges.refresh()

    def _state(self) -> State:
        leaf, load = self._certificate.leaf, self._store.load
        known = self._readiness.known
        return State(
            # "sidecar" is whether it is past starting, and not stopping.
            ready={name: name not in known for name in ("sidecar", *self._readiness.names)},
            circuits={brand: self._vault.gate(brand).tripped for brand in self._vault.brands},
            commits=load.commits,
            commit_seconds=load.seconds,
            writes=load.writes,
            queue=load.waiting,
            certificate=(leaf.not_valid_before_utc, leaf.not_valid_after_utc) if leaf else None,
        )

    async def _stock(self) -> Stock:
        return await self._store.take_stock(tuple(self._vault.brands), self._vault.clock())


def both(one: Events, other: Events) -> Events:
    """Tells both of each event."""

    def tell(event: str, /, **facts: str | int | float) -> None:
        one(event, **facts)
        other(event, **facts)

    return tell
