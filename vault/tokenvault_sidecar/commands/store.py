"""`tokenvault store`: moving a store, from a file to a database or back."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokenvault_sidecar.commands.shared import FILE, config_option, confirm, fail, load, yes_option

if TYPE_CHECKING:
    from tokenvault_sidecar.adapters.copying import End
    from tokenvault_sidecar.config.store import StoreTable


@click.group()
def store() -> None:
    """The store as a whole."""


@store.command()
@click.option("--from", "source", metavar="STORE", required=True, help="The store that is in use.")
@click.option(
    "--to", "target", metavar="STORE", required=True, help="An empty one, made where it is missing."
)
@click.option("--password-file", type=FILE, metavar="FILE", help="The password of the database's role.")
@click.option(
    "--sslmode", type=click.Choice(["verify-full", "verify-ca", "disable"]), default="verify-full",
    show_default=True, help="TLS to the database, as in [store].",
)  # fmt: skip
@click.option("--sslrootcert", type=FILE, metavar="FILE", help="Who vouches for the database's certificate.")
def copy(
    source: str, target: str, password_file: Path | None, sslmode: str, sslrootcert: Path | None
) -> None:
    """Copy a store into an empty one. All sidecars must be stopped.

    STORE is the path of a SQLite file, or a database as in postgresql://tokenvault@db.example.org/tokenvault.
    All is copied as it is, sealed, with the keys that are wrapped by the key-encryption key. May be stopped
    at any time: run again, it goes on where it was. Until it has ended well the target serves nobody.
    """
    from tokenvault_sidecar.adapters.copying import CopyError
    from tokenvault_sidecar.adapters.copying import copy as copy_rows

    def end(name: str, *, make: bool) -> "AbstractContextManager[End]":
        from tokenvault_sidecar.adapters.copy_ends import postgres_end, sqlite_end
        from tokenvault_sidecar.wiring import postgres_settings

        if "://" not in name:
            return sqlite_end(Path(name), make=make)
        table = _table(name, password_file, sslmode, sslrootcert)
        return postgres_end(name, postgres_settings(table), make=make)

    if source == target:
        fail(f"{source}: is both: name two stores")
    try:
        with (
            end(source, make=False) as one,
            end(target, make=True) as other,
            click.progressbar(length=one.count(), label="copying") as bar,
        ):
            copied = copy_rows(one, other, bar.update)
    except CopyError as problem:
        fail(str(problem))
    click.echo(f"{target}: {copied} rows and the keys, the same as in {source}")


@store.command()
@config_option
@yes_option
def restored(file: Path, yes: bool) -> None:
    """Say that the database was restored from a dump, so that what has been since is reckoned with.

    All sidecars must be stopped. Every grant becomes ambiguous, as `tokenvault restore` has it of a file: its
    access token is served while it lives, its refresh token is tried once more when that is over. Pending
    delegations are deleted.
    """
    from tokenvault_sidecar.adapters.copy_ends import postgres_end
    from tokenvault_sidecar.adapters.copying import CopyError, make_ambiguous
    from tokenvault_sidecar.wiring import postgres_settings

    table = load(file).store
    if table.url is None:
        fail(f"{table.where}: is a file: `tokenvault restore` does it all")
    confirm(f"Take {table.where} for restored, and make all its grants ambiguous?", yes=yes)
    try:
        with postgres_end(table.where, postgres_settings(table), make=False) as end:
            grants = make_ambiguous(end)
    except CopyError as problem:
        fail(str(problem))
    click.echo(f"{table.where}: {grants} grants, all of them ambiguous until they are renewed")


def _table(url: str, password_file: Path | None, sslmode: str, sslrootcert: Path | None) -> "StoreTable":
    """A database as the configuration would name it, or the end of the command."""
    from pydantic import ValidationError

    from tokenvault_sidecar.config.store import StoreTable

    given = {"url": url, "password_file": password_file, "sslmode": sslmode, "sslrootcert": sslrootcert}
    try:
        table = StoreTable.model_validate(
            {key: str(value) for key, value in given.items() if value is not None}, context=Path()
        )
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        fail(*(f"{_option(detail['loc'][0])}: {detail['msg']}" for detail in details))
    if problems := list(table.problems()):
        fail(*(f"{_option(key[0])} {what}: {remedy}" for key, what, remedy in problems))
    return table


def _option(key: str | int) -> str:
    return "the database's URL" if key == "url" else f"--{str(key).replace('_', '-')}"
