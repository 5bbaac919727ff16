"""Whether calls can be served now, and if not, why."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from tokenvault_sidecar.core.errors import VaultError

Check = Callable[[], Awaitable[str | None]]
"""Says what is wrong, in words for an operator; None where nothing is. May raise VaultError instead."""

LOOK_EVERY: Final = 5.0
"""Seconds between two looks that nobody asked for."""

_FRESH: Final = 1.0
"""Seconds for which an answer serves others who ask: one check writes to the disk."""

_PATIENCE: Final = 2.0
"""Seconds one check may take."""

STARTING: Final = {"sidecar": "it is starting"}
STOPPING: Final = {"sidecar": "it is stopping: calls under way are finished, new ones are for others"}

_log = structlog.get_logger()


class Readiness:
    """Asks all checks when it is asked itself, and every few seconds; tells of each change."""

    def __init__(self, checks: Mapping[str, Check], tell: Callable[[bool], Awaitable[None]]) -> None:
        """`tell` is called with whether it is ready, whenever that changes."""
        self._checks: Final = checks
        self._tell = tell
        self._known: Mapping[str, str] = STARTING
        self._until = 0.0
        self._asking = asyncio.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """What is checked."""
        return tuple(self._checks)

    @property
    def known(self) -> Mapping[str, str]:
        """What was wrong when last looked, by check."""
        return self._known

    async def problems(self) -> Mapping[str, str]:
        """What is wrong, by check; nothing where calls can be served."""
        async with self._asking:
            if self._known is not STOPPING and time.monotonic() >= self._until:
                said = await asyncio.gather(*map(_asked, self._checks.values()))
                found = {name: why for name, why in zip(self._checks, said, strict=True) if why}
                if self._known is not STOPPING:  # it may have begun meanwhile
                    await self._take(found)
                    self._until = time.monotonic() + _FRESH
        return self._known

    async def watch(self) -> None:
        """Look every few seconds, until cancelled."""
        while True:
            await self.problems()
            await asyncio.sleep(LOOK_EVERY)

    async def stop(self) -> None:
        """Not ready from now on."""
        self._known = STOPPING
        await self._tell(False)

    async def _take(self, found: Mapping[str, str]) -> None:
        before, self._known = self._known, found
        for name, why in found.items():
            if before.get(name) != why:
                _log.error("not_ready", check=name, problem=why)
        if before and not found and before is not STARTING:
            _log.info("ready_again", was=sorted(before))
        if before is STARTING or bool(before) != bool(found):
            await self._tell(not found)


async def _asked(check: Check) -> str | None:
    try:
        async with asyncio.timeout(_PATIENCE):
            return await check()
    except VaultError as error:
        return error.message
    except TimeoutError:
        return f"no answer within {_PATIENCE:g} s"
    except Exception as error:  # a defect: its text may be a secret
        return f"the check failed unexpectedly: {type(error).__name__}"
