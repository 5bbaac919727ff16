"""`tokenvault health`: for probes that run a command, and for people."""

import http.client
import sys
from pathlib import Path

import click

from tokenvault_sidecar.commands.shared import config_option, fail
from tokenvault_sidecar.config import ConfigError, load_ops

_READY, _NOT_READY = 0, 1
_PATIENCE = 5.0
_MOST = 4096


@click.command()
@config_option
def health(file: Path) -> None:
    """Ask the sidecar that runs with the configuration FILE whether it is ready.

    Exits with 0 where it is, with 1 where it is not, and prints the reason.
    """
    try:
        ops = load_ops(file)  # that table only: a mistake elsewhere leaves a running sidecar as it is
    except ConfigError as error:
        fail(*map(str, error.problems))
    if ops is None:
        fail(f"{file}: ops: there is no such table, so no port to ask at: add one")
    ready, said = _ask(ops.listen)
    click.echo(said, err=not ready)
    sys.exit(_READY if ready else _NOT_READY)


def _ask(address: str) -> tuple[bool, str]:
    """Whether the sidecar at this address is ready, and what it says."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=_PATIENCE)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status == http.client.OK, answer.read(_MOST).decode("utf-8", "replace").rstrip()
    except (OSError, http.client.HTTPException) as problem:
        return False, f"sidecar: no answer at {address}: {problem}"
    finally:
        connection.close()
