"""The store and its keys for a command that works beside the sidecar, in a process of its own."""

import random
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click

from tokenvault_sidecar.adapters.clock import SteadyClock
from tokenvault_sidecar.adapters.hardening import harden
from tokenvault_sidecar.adapters.keyring import KeyKeeper, KeyringError
from tokenvault_sidecar.adapters.stores import ServedStore, StoreOpenError
from tokenvault_sidecar.commands.shared import fail
from tokenvault_sidecar.config import Config
from tokenvault_sidecar.core.administration import Administration
from tokenvault_sidecar.core.background import Background
from tokenvault_sidecar.core.errors import StoreUnavailable
from tokenvault_sidecar.core.revocation import Revoker
from tokenvault_sidecar.core.sealing import Sealer
from tokenvault_sidecar.core.vault import Vault
from tokenvault_sidecar.wiring import keks, open_store


@asynccontextmanager
async def opened(config: Config) -> AsyncIterator[ServedStore]:
    """The store, which must be there; what cannot be read or written ends the command."""
    try:
        store = await open_store(config, make=False)
    except StoreOpenError as problem:
        fail(str(problem))
    try:
        yield store
    except StoreUnavailable as problem:
        fail(f"{config.store.where}: {problem}")
    finally:
        await store.close()


@asynccontextmanager
async def administration(config: Config) -> AsyncIterator[Administration]:
    """The grants, opened by the configured key. What is queued for revocation is the sidecar's to send."""
    harden()
    async with opened(config) as store:
        try:
            keys = await KeyKeeper.open(store, keks(config), None)
        except KeyringError as problem:
            fail(f"{config.store.where}: {problem}")
        vault = Vault(
            store=store,
            sealer=Sealer(keys.keyring),
            keys=keys,
            brands={},
            servers={},
            clock=SteadyClock(_tell),
            events=_tell,
            background=Background(_tell),
            new_id=lambda: secrets.token_urlsafe(16),
            new_secret=lambda: secrets.token_urlsafe(32),
            jitter=random.random,
        )
        yield Administration(vault, Revoker(vault, works=False))


def _tell(event: str, /, **facts: str | int | float) -> None:
    if event == "unreadable_forgotten":
        click.echo(f"brand {facts['brand']}: a grant that does not open: its tokens stay unrevoked", err=True)
