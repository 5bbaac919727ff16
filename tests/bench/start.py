"""How long a sidecar with many grants takes to start, and what commands beside it cost."""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench import vault
from tests.running import COMMAND, SidecarProcess
from tokenvault_sidecar.adapters.sqlite_inspection import look_at
from tokenvault_sidecar.config import load_config

AIM = 1.0
"""Seconds that a start may take beyond what Python takes to import the program."""

_IMPORT = (sys.executable, "-P", "-c", "import tokenvault_sidecar.cli, tokenvault_sidecar.run")


@dataclass(frozen=True)
class Cost:
    """Of one command: seconds, and the most memory it had, in bytes."""

    seconds: float
    memory: int


def main() -> None:
    """Fill a store, start sidecars on it by turns with bare imports, and print what it took."""
    parser = argparse.ArgumentParser(prog="make bench-start", description=__doc__)
    parser.add_argument("--grants", type=int, default=1_000_000, help="grants stored (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="starts (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where the store is made; some 4 KB a grant")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tokenvault-bench-", dir=options.folder) as folder:
        config = vault.configure(Path(folder) / "vault")
        asyncio.run(vault.fill(load_config(config), options.grants))
        beyond = _starts(config, options.grants, options.rounds)
        _commands(config, Path(folder) / "backup.db")
    if beyond > AIM:
        sys.exit(f"bench-start: {beyond:.2f} s beyond the import, the aim is {AIM:g} s")


def _starts(config: Path, grants: int, rounds: int) -> float:
    """Seconds that a start takes beyond the import, the median of pairs."""
    imports, starts, memory = [], [], []
    for _ in range(rounds):
        imports.append(run(*_IMPORT).seconds)
        begin = time.monotonic()
        with SidecarProcess(config) as sidecar:
            starts.append(time.monotonic() - begin)
            memory.append(look_at(load_config(config).store.file).memory or 0)
            sidecar.kill()  # so that the next one recovers, too
    beyond = median(start - bare for start, bare in zip(starts, imports, strict=True))
    print(f"{grants:,} grants: ready in {median(starts):.2f} s, the import alone {median(imports):.2f} s")
    print(f"a start beyond the import: {beyond:.2f} s; memory {max(memory) / 1e6:.0f} MB")
    return beyond


def _commands(config: Path, backup: Path) -> None:
    """What an operator's commands take beside a sidecar."""
    with SidecarProcess(config):
        for command in (["stats"], ["grants", "list", "--json"], ["backup", str(backup)]):
            cost = run(*COMMAND, *command, "--config", str(config))
            print(f"{' '.join(command[:2])}: {cost.seconds:.1f} s, at most {cost.memory / 1e6:.0f} MB")


def run(*command: str) -> Cost:
    """Run it to its end. Raises CalledProcessError."""
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Cost(time.monotonic() - begin, usage.ru_maxrss * 1024)


if __name__ == "__main__":
    main()
