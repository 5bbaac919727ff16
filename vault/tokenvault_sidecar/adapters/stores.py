"""What all stores have in common beside `core.ports.Store`."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from tokenvault_sidecar.core.ports import Stock, Store


class StoreOpenError(Exception):
    """The store cannot be opened. The text names it and says what to do."""


@dataclass(slots=True)
class Load:
    """What was written so far: transactions, the writes they held, seconds they took; what waits."""

    commits: int = 0
    writes: int = 0
    seconds: float = 0.0
    waiting: int = 0


class ServedStore(Store, Protocol):
    """A store as the sidecar that serves from it sees it."""

    @property
    def load(self) -> Load:
        """As of now."""

    async def probe(self) -> None:
        """Write, durably, what changes nothing. Raises StoreUnavailable where nothing can be written."""

    async def take_stock(self, brands: Iterable[str], now: float) -> Stock:
        """Count, without holding up who serves. Raises StoreUnavailable."""

    async def schema_version(self) -> int:
        """How many migrations it has seen. Raises StoreUnavailable."""

    async def size(self) -> int:
        """Bytes it takes. Raises StoreUnavailable."""
