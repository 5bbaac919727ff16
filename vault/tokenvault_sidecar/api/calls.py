"""The RPC under way: what is known of it so far, for the servicer and for the record."""

import re
import secrets
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import Message

from tokenvault_sidecar.core.model import Context
from tokenvault_sidecar.core.policy import Caller
from tokenvault_sidecar.core.tracing import CallSpan

REQUEST_ID: Final = "x-request-id"
"""The metadata key, of the call and of the answer where it fails."""

_FITS: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,64}")


@dataclass(slots=True)
class CallUnderWay:
    """Filled in as it is found out: by the guard up to `caller`, by the servicer from `brand` on."""

    rpc: str
    metadata: Callable[[], Iterable[tuple[str, str | bytes]] | None] = tuple
    identity: str | None = None
    caller: Caller | None = None
    brand: str | None = None
    context: Context | None = None
    version: str | None = None
    span: CallSpan | None = None
    detail: Message | None = field(default=None, repr=False)
    """Goes to the caller with the status, where the call fails; may hold secrets."""
    not_heard: Callable[[], None] | None = field(default=None, repr=False)
    """Called where there is an answer that does not reach the caller."""
    began: float = field(default_factory=time.perf_counter)
    _request_id: str | None = None

    @property
    def request_id(self) -> str:
        """The caller's `x-request-id`, where it is short and of harmless characters; else one of ours.

        Looked for when it is needed: most calls leave no line.
        """
        if self._request_id is None:
            given = next((value for key, value in self.metadata() or () if key == REQUEST_ID), None)
            fits = isinstance(given, str) and _FITS.fullmatch(given)
            self._request_id = given if fits else secrets.token_hex(8)  # type: ignore[assignment]  # a str
        return self._request_id  # type: ignore[return-value]  # set above

    def end_span(self, outcome: str) -> None:
        """Tell the trace, where there is one, how it ended."""
        if self.span is not None:
            caller = self.caller.name if self.caller else None
            self.span.end(caller=caller, brand=self.brand, reason=outcome)

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
