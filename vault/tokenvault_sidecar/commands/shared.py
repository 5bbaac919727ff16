"""What the commands have in common: reading the configuration, refusing, and asking first."""

import sys
from pathlib import Path
from typing import NoReturn

import click

from tokenvault_sidecar.config import Config, ConfigError, load_config

REFUSED = 2
"""Exit status where something outside is not as it must be, or nobody confirmed."""

FILE = click.Path(path_type=Path)

config_option = click.option(
    "--config", "file", metavar="FILE", required=True, type=FILE, help="The configuration."
)
yes_option = click.option("--yes", is_flag=True, help="Do not ask: for scripts.")


def load(file: Path) -> Config:
    """The configuration, or the end of the command."""
    try:
        return load_config(file)
    except ConfigError as error:
        fail(*map(str, error.problems))


def fail(*lines: str) -> NoReturn:
    """Say what is wrong, and end the command."""
    for line in lines:
        click.echo(line, err=True)
    sys.exit(REFUSED)


def confirm(question: str, *, yes: bool) -> None:
    """Go on only if the operator says so; where nobody can be asked, `--yes` must have been given."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{question} Nobody is here to be asked: add --yes")
    click.confirm(question, abort=True, err=True)
