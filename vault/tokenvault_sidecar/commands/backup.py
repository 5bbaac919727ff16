"""`tokenvault backup` and `tokenvault restore`."""

from pathlib import Path

import click

from tokenvault_sidecar.commands.shared import FILE, config_option, confirm, fail, load, yes_option
from tokenvault_sidecar.config import Config


@click.command()
@click.argument("target", metavar="BACKUP", type=FILE)
@config_option
def backup(target: Path, file: Path) -> None:
    """Copy the store, a SQLite file, into the new file BACKUP, while the sidecar runs or not.

    The copy is consistent, and sealed as the store is: it opens by the same key-encryption key only.
    """
    from tokenvault_sidecar.adapters.sqlite_backup import BackupError, back_up

    config = load(file)
    _refuse_database(config)
    try:
        grants = back_up(config.store.file, target)
    except BackupError as problem:
        fail(str(problem))
    click.echo(f"{target}: {grants} grants, {target.stat().st_size} bytes")


@click.command()
@click.argument("source", metavar="BACKUP", type=FILE)
@config_option
@yes_option
def restore(source: Path, file: Path, yes: bool) -> None:
    """Put BACKUP in the place of the store, a SQLite file. The sidecar must be stopped.

    Every grant is restored as ambiguous: its access token is served while it lives, its refresh token is
    tried once more, when that is over. Pending delegations are gone.
    """
    from tokenvault_sidecar.adapters.keyring import KeyringError, unwrap
    from tokenvault_sidecar.adapters.sqlite_backup import BackupError
    from tokenvault_sidecar.adapters.sqlite_backup import restore as put_back
    from tokenvault_sidecar.wiring import keks

    config = load(file)
    _refuse_database(config)
    path = config.store.file
    if path.exists():
        confirm(f"{path} is there, and would be replaced. Replace it?", yes=yes)
    try:
        given = keks(config)
        grants = put_back(source, path, lambda keys: unwrap(keys, *given))
    except KeyringError as problem:
        fail(f"{source}: {problem}", f"{path} is as it was")
    except BackupError as problem:
        fail(str(problem))
    click.echo(f"{path}: {grants} grants, all of them ambiguous until they are renewed")


def _refuse_database(config: Config) -> None:
    if config.store.url:
        fail(
            f"{config.store.where}: a database has tools of its own for that, pg_dump and pg_restore: "
            "docs/operations.md says what else a restored one needs"
        )
