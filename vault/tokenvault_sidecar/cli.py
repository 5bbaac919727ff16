"""The `tokenvault` command."""

import asyncio
import sys
from importlib.metadata import version
from pathlib import Path

import click

from tokenvault_sidecar import devkit
from tokenvault_sidecar.commands.backup import backup, restore
from tokenvault_sidecar.commands.grants import grants
from tokenvault_sidecar.commands.health import health
from tokenvault_sidecar.commands.keys import keys
from tokenvault_sidecar.commands.shared import FILE, config_option, fail, load
from tokenvault_sidecar.commands.stats import stats
from tokenvault_sidecar.commands.store import store
from tokenvault_sidecar.config import Config, ConfigError, describe


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("tokenvault-sidecar"), prog_name="tokenvault")
def main() -> None:
    """Keeps delegated OAuth 2.0 tokens safe and fresh, and hands them only to who may have them."""


@main.command()
@click.argument("directory", metavar="DIR", type=FILE)
def init(directory: Path) -> None:
    """Make what a developer needs to start: certificates, a key and a commented configuration in DIR."""
    try:
        made = devkit.init(directory)
    except devkit.AlreadyThere as there:
        fail("these files are there already, and nothing was changed:", *(f"  {p}" for p in there.paths))
    except devkit.CannotWrite as problem:
        fail(f"{problem}; nothing was made")
    config = made[-1]
    click.echo("\n".join([*(f"made {path}" for path in made), "", "Next:"]))
    click.echo(f"  1. Read {config} and point its brand at your authorization server.")
    click.echo(f"  2. Put this client's secret there into {directory / 'client-secret'}.")
    click.echo(f"  3. tokenvault check-config {config}")
    click.echo(f"  4. tokenvault serve --config {config}")


@main.command("check-config")
@click.argument("file", metavar="FILE", type=FILE)
def check_config(file: Path) -> None:
    """Check the configuration FILE and say what was understood."""
    # Here, not at the top, as in `serve`: what brings gRPC is slow to import.
    from tokenvault_sidecar.adapters.keyring import KeyringError
    from tokenvault_sidecar.api.tls import TlsFiles, TlsFilesInvalid, server_credentials
    from tokenvault_sidecar.wiring import keks, tracing

    config = load(file)
    try:
        server_credentials(
            TlsFiles(
                config.server.certificate_file,
                config.server.private_key_file.path,
                config.server.client_ca_file,
            )
        )
        keks(config)
        if traces := tracing(config):
            traces.close(0)
    except TlsFilesInvalid as problem:
        fail(f"{file}: server: {problem}: put the files that [server] names in order")
    except KeyringError as problem:
        fail(f"{file}: keys: {problem}")
    except ValueError as problem:
        fail(f"{file}: {problem}")
    click.echo(f"{file} is in order.\n\n{describe(config)}")
    for warning in config.warnings:
        click.echo(f"warning: {warning}", err=True)


@main.command()
@config_option
def serve(file: Path) -> None:
    """Run the sidecar until it is told to stop (SIGTERM or SIGINT)."""
    from tokenvault_sidecar.beginning import begin

    try:
        begun = begin(file)
        if begun.config.server.workers > 1:
            from tokenvault_sidecar.workers.supervisor import supervise

            sys.exit(supervise(begun))
    except ConfigError as error:
        fail(*map(str, error.problems))
    from tokenvault_sidecar.run import run

    sys.exit(run(begun))


@main.command(hidden=True)
@config_option
@click.argument("descriptor", type=int)
def worker(file: Path, descriptor: int) -> None:
    """Serve as one of several workers. For `serve` to start, which is at the socket of this descriptor."""
    from tokenvault_sidecar.run import run
    from tokenvault_sidecar.workers.worker import Worker

    try:
        one = Worker(file, descriptor)
    except ConfigError as error:
        fail(*map(str, error.problems))
    except (OSError, ValueError):
        fail("this command is for `tokenvault serve` to start")
    sys.exit(run(one.begun, one))


@main.group()
def audit() -> None:
    """The audit log."""


@audit.command()
@config_option
def verify(file: Path) -> None:
    """Check that no line of the audit log was removed, changed or moved."""
    from tokenvault_sidecar.adapters.audit import AuditError, audit_key, logs
    from tokenvault_sidecar.adapters.audit import verify as verify_log
    from tokenvault_sidecar.adapters.keyring import KeyringError
    from tokenvault_sidecar.adapters.stores import StoreOpenError
    from tokenvault_sidecar.core.errors import StoreUnavailable
    from tokenvault_sidecar.wiring import opened_store

    async def key(config: Config) -> bytes:
        async with opened_store(config) as opened:
            return audit_key(opened.keys.keyring)

    config = load(file)
    if config.audit is None:
        fail(f"{file}: audit: there is no such table, so no audit log is kept: add one")
    log = config.audit.path
    try:
        chained_by = asyncio.run(key(config))
        for log in logs(config.audit.path, config.server.workers):
            click.echo(f"{log} is whole: {verify_log(log, chained_by)} lines")
    except (AuditError, KeyringError, StoreOpenError, StoreUnavailable) as problem:
        fail(f"{log}: {problem}")
    except OSError as problem:
        fail(f"{log}: cannot be read: {problem.strerror}")


main.add_command(backup)
main.add_command(restore)
main.add_command(grants)
main.add_command(keys)
main.add_command(stats)
main.add_command(health)
main.add_command(store)
