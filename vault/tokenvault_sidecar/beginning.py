"""What every process that serves begins with: signals, hardening, the configuration, and the log."""

import gc
import signal
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from tokenvault_sidecar.adapters.hardening import harden
from tokenvault_sidecar.adapters.logs import configure_logging
from tokenvault_sidecar.api.call_log import about_call
from tokenvault_sidecar.config import Config, load_config

CANNOT_START = 2
"""Exit status where something outside is not as it must be; the last line on stderr says what."""

Stamps = dict[Path, tuple[int, int, int] | None]
"""Of files, what changes with them; None for one that is not there."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Beginning:
    """The configuration that holds, its file, and what the files it comes from were like.

    `brands` are those that log lines may name; a reload adds to them.
    """

    file: Path
    config: Config
    seen: Stamps
    brands: set[str]


def begin(file: Path, *, worker: int | None = None, fixed: Mapping[str, Any] | None = None) -> Beginning:
    """Harden the process, read this configuration, and set the log up.

    Of several workers, `worker` is one's number and `fixed` the tables that
    are as they were when the sidecar started. Raises ConfigError.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    if worker is not None:  # a service manager may tell all, but when each is to stop the supervisor says
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, signal.SIG_IGN)
    harden()
    seen = stamps((file,))
    config = load_config(file, fixed)
    seen |= stamps(config.watched)
    brands = set(config.brands)
    about = partial(about_call, brands)
    if worker is not None:
        about = partial(_about_worker, worker, brands)
    configure_logging(config.server.log_level, config.server.log_format, about)
    if worker is None:
        for warning in config.warnings:
            _log.warning("config", warning=warning)
    return Beginning(file, config, seen, brands)


def settle() -> None:
    """What is here now stays: looking through it again would stop every call for some 20 ms."""
    gc.freeze()
    gc.set_threshold(700)  # Python's own, instead of what `__main__` set


def tell_ready(addresses: Iterable[str]) -> None:
    """To who started the process, on stdout."""
    sys.stdout.write(f"ready: listening on {', '.join(addresses)}\n")
    sys.stdout.flush()


def stamps(paths: Iterable[Path]) -> Stamps:
    """Of these files, now."""
    return {path: _stamp(path) for path in paths}


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _about_worker(number: int, brands: set[str]) -> dict[str, object]:
    return {"worker": number, **about_call(brands)}
