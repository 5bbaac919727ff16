"""The sidecar as a process: signals, files that change, and the exit status."""

import asyncio
import gc
import signal
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import structlog
import uvloop

from tokenvault_sidecar.adapters.audit import AuditError
from tokenvault_sidecar.adapters.hardening import harden
from tokenvault_sidecar.adapters.keyring import KeyringError
from tokenvault_sidecar.adapters.logs import LogEvents, configure_logging
from tokenvault_sidecar.adapters.stores import StoreOpenError
from tokenvault_sidecar.api.call_log import about_call
from tokenvault_sidecar.api.server import CannotListen
from tokenvault_sidecar.api.tls import TlsFilesInvalid
from tokenvault_sidecar.app import Sidecar
from tokenvault_sidecar.config import Config, ConfigError, load_config
from tokenvault_sidecar.core.errors import StoreUnavailable

CANNOT_START = 2
"""Exit status where something outside is not as it must be; the last line on stderr says what."""

LOOK_EVERY = 2.0
"""Seconds between two looks at the files the configuration comes from."""

_CANNOT_START = (AuditError, KeyringError, StoreOpenError, CannotListen, TlsFilesInvalid, ValueError)

Stamps = dict[Path, tuple[int, int, int] | None]

_log = structlog.get_logger()


def run(file: Path) -> int:
    """Serve by this configuration until SIGTERM or SIGINT; the exit status.

    SIGHUP, or a change of the file or of one it names, has it read again. A
    second of the two ends the process at once. Raises ConfigError.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    harden()
    seen = _stamps((file,))
    config = load_config(file)
    seen |= _stamps(config.watched)
    brands = set(config.brands)
    configure_logging(config.server.log_level, config.server.log_format, partial(about_call, brands))
    for warning in config.warnings:
        _log.warning("config", warning=warning)
    try:
        return uvloop.run(_serve(file, config, seen, brands))
    except StoreUnavailable as error:  # it names no file: it is told to callers too
        problem = f"{config.store.where}: {error}"
    except _CANNOT_START as error:
        problem = str(error)
    sys.stderr.write(f"cannot start: {problem}\n")
    return CANNOT_START


async def _serve(file: Path, config: Config, seen: Stamps, brands: set[str]) -> int:
    stopped, changed = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(name)
            signal.signal(name, signal.SIG_DFL)  # of SIGINT, Python would make an exception
        stopped.set()

    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop)
    loop.add_signal_handler(signal.SIGHUP, changed.set)
    sidecar = await Sidecar.start(config, LogEvents())
    gc.freeze()  # what is here now stays: looking through it again would stop every call for some 20 ms
    _log.info(
        "ready",
        listening=sidecar.addresses,
        ops=sidecar.ops_address,
        callback=sidecar.callback_address,
        brands=sorted(config.brands),
    )
    sys.stdout.write(f"ready: listening on {', '.join(sidecar.addresses)}\n")
    sys.stdout.flush()
    watching = loop.create_task(_watch(sidecar, file, seen, changed, brands), name="watch")
    await stopped.wait()
    watching.cancel()
    _log.info("stopping")
    await sidecar.stop()
    _log.info("stopped")
    return 0


async def _watch(
    sidecar: Sidecar, file: Path, seen: Stamps, changed: asyncio.Event, brands: set[str]
) -> None:
    """Reload on SIGHUP and on changed files; what is broken is reported, and the old stays in force.

    Brands that come with it are added to `brands`, those that log lines may name.
    """
    while True:
        try:
            async with asyncio.timeout(LOOK_EVERY):
                await changed.wait()
        except TimeoutError:
            if _stamps(seen) == seen:
                continue
        changed.clear()
        seen = _stamps(seen)  # before they are read: what changes meanwhile is seen the next time
        try:
            sidecar.reopen()
            config = await asyncio.to_thread(load_config, file)
            needs_restart = await sidecar.reload(config)
        except ConfigError as error:
            _refused(*map(str, error.problems))
        except (ValueError, AuditError) as error:
            _refused(str(error))
        except Exception as error:  # a defect: its text may be a secret, and the next reload may succeed
            _refused(f"failed unexpectedly: {type(error).__name__}")
        else:
            named = _stamps((file, *config.watched))
            seen = named | {path: seen[path] for path in named.keys() & seen.keys()}
            brands |= set(config.brands)
            _log.info("reloaded", brands=sorted(config.brands), callers=sorted(config.callers))
            if needs_restart:
                _log.warning("restart_needed", unchanged=needs_restart)


def _refused(*problems: str) -> None:
    _log.error("reload_refused", problems=problems, remedy="the old is in force")


def _stamps(paths: Iterable[Path]) -> Stamps:
    return {path: _stamp(path) for path in paths}


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
