"""The RPC under way: what is known of it so far, for the servicer and for the record."""

import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from tokenvault_sidecar.core.model import Context
from tokenvault_sidecar.core.policy import Caller


@dataclass(slots=True)
class CallUnderWay:
    """Filled in as it is found out: by the guard up to `caller`, by the servicer from `brand` on."""

    rpc: str
    identity: str | None = None
    caller: Caller | None = None
    brand: str | None = None
    context: Context | None = None
    version: str | None = None
    began: float = field(default_factory=time.perf_counter)

    @property
    def known_caller(self) -> Caller:
        """The caller; the guard has seen to it before a servicer is entered."""
        assert self.caller is not None
        return self.caller


current_call: Final[ContextVar[CallUnderWay]] = ContextVar("current_call")

Record = Callable[[CallUnderWay, str], None]
"""Notes a call's outcome, "OK" or a reason, before its answer leaves; raises VaultError to hold it back."""

Observe = Callable[[str, str | None, str, float], None]
"""Is told of each call that ended: RPC, caller's name, outcome, and the seconds it took. Must not raise."""
