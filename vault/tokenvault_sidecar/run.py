"""The sidecar as a process: signals, files that change, and the exit status."""

import asyncio
import signal
import sys

import structlog
import uvloop

from tokenvault_sidecar.adapters.audit import AuditError
from tokenvault_sidecar.adapters.keyring import KeyringError
from tokenvault_sidecar.adapters.logs import LogEvents
from tokenvault_sidecar.adapters.stores import StoreOpenError
from tokenvault_sidecar.api.tls import TlsFilesInvalid
from tokenvault_sidecar.app import Sidecar
from tokenvault_sidecar.beginning import CANNOT_START, Beginning, settle, stamps, tell_ready
from tokenvault_sidecar.config import ConfigError, load_config
from tokenvault_sidecar.core.errors import StoreUnavailable
from tokenvault_sidecar.listening import CannotListen
from tokenvault_sidecar.workers.worker import Worker

LOOK_EVERY = 2.0
"""Seconds between two looks at the files the configuration comes from."""

_CANNOT_START = (AuditError, KeyringError, StoreOpenError, CannotListen, TlsFilesInvalid, ValueError)

_log = structlog.get_logger()


def run(begun: Beginning, worker: Worker | None = None) -> int:
    """Serve by this configuration until SIGTERM or SIGINT; the exit status.

    SIGHUP, or a change of the file or of one it names, has it read again. A
    second of the two ends the process at once. To a `worker` only its
    supervisor says such things.
    """
    try:
        return uvloop.run(_serve(begun, worker))
    except StoreUnavailable as error:  # it names no file: it is told to callers too
        problem = f"{begun.config.store.where}: {error}"
    except _CANNOT_START as error:
        problem = str(error)
    sys.stderr.write(f"cannot start: {problem}\n")
    return CANNOT_START


async def _serve(begun: Beginning, worker: Worker | None) -> int:
    stopped, changed = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(name)
            signal.signal(name, signal.SIG_DFL)  # of SIGINT, Python would make an exception
        stopped.set()

    if worker:
        obeying = loop.create_task(worker.obey(stopped, changed), name="worker")
    else:
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, stop)
        loop.add_signal_handler(signal.SIGHUP, changed.set)
    sidecar = await Sidecar.start(begun.config, LogEvents(), worker.share if worker else None)
    settle()
    _log.info(
        "ready",
        listening=sidecar.addresses,
        ops=sidecar.ops_address,
        callback=sidecar.callback_address,
        brands=sorted(begun.config.brands),
    )
    if worker:
        worker.serves(sidecar.operations)
    else:
        tell_ready(sidecar.addresses)
    watching = loop.create_task(_watch(sidecar, begun, changed), name="watch")
    await stopped.wait()
    watching.cancel()
    _log.info("stopping")
    await sidecar.stop()
    _log.info("stopped")
    if worker:
        obeying.cancel()
    return 0


async def _watch(sidecar: Sidecar, begun: Beginning, changed: asyncio.Event) -> None:
    """Reload on SIGHUP and on changed files; what is broken is reported, and the old stays in force.

    Brands that come with it may then be named in log lines.
    """
    seen = begun.seen
    while True:
        try:
            async with asyncio.timeout(LOOK_EVERY):
                await changed.wait()
        except TimeoutError:
            if stamps(seen) == seen:
                continue
        changed.clear()
        seen = stamps(seen)  # before they are read: what changes meanwhile is seen the next time
        try:
            sidecar.reopen()
            config = await asyncio.to_thread(load_config, begun.file)
            needs_restart = await sidecar.reload(config)
        except ConfigError as error:
            _refused(*map(str, error.problems))
        except (ValueError, AuditError) as error:
            _refused(str(error))
        except Exception as error:  # a defect: its text may be a secret, and the next reload may succeed
            _refused(f"failed unexpectedly: {type(error).__name__}")
        else:
            named = stamps((begun.file, *config.watched))
            seen = named | {path: seen[path] for path in named.keys() & seen.keys()}
            begun.brands.update(config.brands)
            _log.info("reloaded", brands=sorted(config.brands), callers=sorted(config.callers))
            if needs_restart:
                _log.warning("restart_needed", unchanged=needs_restart)


def _refused(*problems: str) -> None:
    _log.error("reload_refused", problems=problems, remedy="the old is in force")
