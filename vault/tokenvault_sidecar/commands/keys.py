"""`tokenvault keys`: the keys in the store, looked at and rotated while sidecars serve."""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tokenvault_sidecar.commands.shared import config_option, fail, load

if TYPE_CHECKING:
    from tokenvault_sidecar.core.rotation import Rotation
    from tokenvault_sidecar.wiring import OpenStore

NOTICED = 3.0
"""Seconds within which every sidecar seals by a new key."""

_T = TypeVar("_T")


@click.group()
def keys() -> None:
    """The keys in the store, which seal what is stored."""


@keys.command("list")
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
def list_keys(file: Path, as_json: bool) -> None:
    """List the keys, by id only: purpose, age, the KEK that wraps each, and how many records it seals."""
    found = _with_store(file, _describe)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"{'id':10}{'purpose':9}{'age':>8}  {'active':8}{'kek':18}{'records':>10}{'seals':>12}")
    for key in found:
        active = "yes" if key["active"] else "no"
        click.echo(
            f"{key['id']:10}{key['purpose']:9}{_age(key['age_seconds']):>8}  {active:8}{key['kek']:18}"
            f"{_number(key['records']):>10}{_number(key['seals']):>12}"
        )


@keys.command()
@config_option
def rotate(file: Path) -> None:
    """Add a data key that seals from now on, and seal every record anew by it, while sidecars serve.

    May be stopped at any time: run again, it goes on where it was.
    """
    _with_store(file, _rotate)


@keys.command()
@config_option
def rewrap(file: Path) -> None:
    """Wrap every key by the configured KEK that the previous one wraps, in one go, while sidecars serve."""
    _with_store(file, _rewrap)


async def _describe(opened: "OpenStore") -> list[dict[str, Any]]:
    keyring, now = opened.keys.keyring, time.time()
    return [
        {
            "id": key.id,
            "purpose": key.purpose,
            "created_at": key.created_at,
            "age_seconds": max(0, round(now - key.created_at)),
            "active": key.purpose == "index" or key.id == keyring.active,
            "kek": key.kek,
            "records": await opened.store.count_sealed(keyring.head(key.id))
            if key.purpose == "data"
            else None,
            "seals": key.seals if key.purpose == "data" else None,
        }
        for key in await opened.store.get_keys()
    ]


async def _rotate(opened: "OpenStore") -> None:
    rotation = opened.rotation
    for key in await rotation.drop_old():
        click.echo(f"data key {key} was deleted: nothing is sealed by it")
    found = await rotation.waiting()
    if found:
        click.echo("an earlier rotation is not finished: going on with it")
        await _seal_anew(rotation)
    if await rotation.waiting() == found:  # none, or none that can be opened
        if not await rotation.begin():
            click.echo("another process has just added a key: sealing anew by that one")
        await _seal_anew(rotation)
    await rotation.save_count()
    active, left = opened.keys.keyring.active, await rotation.waiting()
    click.echo(f"data key {active} seals from now on")
    if left:
        fail(f"{left} records cannot be opened and stay as they are; their key stays with them")
    if len(opened.keys.keyring.data_keys) > 1:
        click.echo("the old key stays for an hour; then a sidecar, or the next rotation, deletes it")


async def _seal_anew(rotation: "Rotation") -> None:
    begun = time.monotonic()
    with click.progressbar(length=await rotation.waiting(), label="sealing anew") as bar:
        while (done := await rotation.reseal()) or time.monotonic() < begun + NOTICED:
            bar.update(done)
            await asyncio.sleep(0.005 if done else 0.2)  # sidecars write in between


async def _rewrap(opened: "OpenStore") -> None:
    count = await opened.keys.rewrap()
    if count:
        click.echo(f"{count} keys are wrapped by the configured KEK now: the previous one is needed no more")
    else:
        click.echo("every key is wrapped by the configured KEK already")


def _with_store(file: Path, work: Callable[["OpenStore"], Coroutine[Any, Any, _T]]) -> _T:
    """What `work` gives for the configuration's store; a problem ends the command."""
    from tokenvault_sidecar.adapters.hardening import harden
    from tokenvault_sidecar.adapters.keyring import KeyringError
    from tokenvault_sidecar.adapters.stores import StoreOpenError
    from tokenvault_sidecar.core.errors import StoreUnavailable
    from tokenvault_sidecar.wiring import opened_store

    config = load(file)
    harden()

    async def run() -> _T:
        async with opened_store(config) as opened:
            return await work(opened)

    try:
        return asyncio.run(run())
    except (KeyringError, StoreOpenError) as problem:
        fail(str(problem))
    except StoreUnavailable as problem:
        fail(f"{config.store.where}: {problem}")


def _age(seconds: int) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _number(value: int | None) -> str:
    return "" if value is None else str(value)
