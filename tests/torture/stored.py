"""What the sidecars have committed: their database, opened by the core's own keys, read and never written."""

import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg
import pysqlite3

from tests.authserver.oidc import sha256
from tokenvault_sidecar.adapters.keyring import unwrap
from tokenvault_sidecar.adapters.postgres_connecting import parameters
from tokenvault_sidecar.config import Config
from tokenvault_sidecar.core.model import Context, ContextKind
from tokenvault_sidecar.core.ports import GrantRow, WrappedKey
from tokenvault_sidecar.core.sealing import Sealer
from tokenvault_sidecar.wiring import keks, postgres_settings

_GRANTS = "SELECT key, brand, kind, version, sealed, purge_at, unanswered FROM grants"
_KEYS = "SELECT id, purpose, kek, wrapped, created_at FROM keys ORDER BY created_at, "


_RESTART_SECONDS = 60.0

_Read = tuple[list[WrappedKey], dict[bytes, Any]]


@dataclass(frozen=True, slots=True)
class Stored:
    """A consumer's grant as committed, tokens as hashes. No refresh token: it was refused or given up."""

    version: str
    access_token: str
    refresh_token: str | None
    unanswered: int


class StoredGrants:
    """Reads it anew each time: a connection kept to a file would spare the sidecars their recovery."""

    def __init__(self, config: Config, brand: str) -> None:
        self._store = config.store
        self._kek = keks(config)[0]
        self._brand = brand

    def read(self, consumers: Iterable[str]) -> dict[str, Stored]:
        """The grants of those who have one. Raises StoreUnavailable where a row is not authentic."""
        keys, rows = self._read_database() if self._store.url else self._read_file()
        sealer = Sealer(unwrap(keys, self._kek))
        found: dict[str, Stored] = {}
        for consumer in consumers:
            row = rows.get(sealer.context_key(self._brand, Context(ContextKind.CONSUMER, consumer)))
            if row is not None:
                found[consumer] = _open(sealer, *row)
        return found

    def _read_file(self) -> _Read:
        uri = f"{self._store.file.resolve().as_uri()}?mode=ro"
        with closing(pysqlite3.connect(uri, uri=True)) as connection:
            keys = [WrappedKey(*row) for row in connection.execute(_KEYS + "rowid").fetchall()]
            return keys, {row[0]: row for row in connection.execute(_GRANTS).fetchall()}

    def _read_database(self) -> _Read:
        """Waits while it is restarted."""
        until = time.monotonic() + _RESTART_SECONDS
        while True:
            try:
                with psycopg.connect(**parameters(postgres_settings(self._store))) as connection:
                    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                    keys = [WrappedKey(*row) for row in connection.execute(_KEYS + "number").fetchall()]
                    return keys, {row[0]: row for row in connection.execute(_GRANTS).fetchall()}
            except psycopg.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)


def _open(
    sealer: Sealer,
    key: bytes,
    brand: str,
    kind: str,
    version: str,
    sealed: bytes,
    purge_at: float,
    unanswered: int,
) -> Stored:
    row = GrantRow(key, brand, ContextKind(kind), version, sealed, purge_at)
    tokens = sealer.open_grant(row).tokens
    return Stored(
        version=version,
        access_token=sha256(tokens.access_token.reveal()),
        refresh_token=sha256(tokens.refresh_token.reveal()) if tokens.refresh_token else None,
        unanswered=unanswered,
    )
