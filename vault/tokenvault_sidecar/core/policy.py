"""Who may do what: caller × RPC × brand × context kind × scopes, as data. No entry means no."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from tokenvault_sidecar.core.errors import PolicyDenied, UnknownCaller
from tokenvault_sidecar.core.model import ContextKind

BELOW = "/*"
"""Ends an identity that stands for all SPIFFE IDs below its path."""

_SEGMENTS = re.compile(r"(?:(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+(?:/(?!$)|$))+")
"""The rest of a SPIFFE ID's path (SPIFFE-ID section 2.2): no empty segment, no dots that climb."""


class Rpc(StrEnum):
    """The service's RPCs by their names in the proto, and two services beside it."""

    START_DELEGATION = "StartDelegation"
    COMPLETE_DELEGATION = "CompleteDelegation"
    CONFIRM_DELEGATION = "ConfirmDelegation"
    WATCH_DELEGATION = "WatchDelegation"
    GET_TOKEN = "GetToken"  # noqa: S105 an RPC's name
    INVALIDATE = "Invalidate"
    HEALTH = "Health"
    REFLECTION = "ServerReflection"


@dataclass(frozen=True, slots=True)
class Allow:
    """One entry: everything in it is allowed together. `brands` and `scopes` None mean any."""

    rpcs: frozenset[Rpc]
    brands: frozenset[str] | None
    contexts: frozenset[ContextKind]
    scopes: frozenset[str] | None = None
    id_token: bool = False
    keeps_session_alive: bool = False


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated workload: a name for logs, its certificate identities, and what it may do.

    An identity is a DNS name, a SPIFFE ID, or one ending in "/*": any below that path.
    """

    name: str
    identities: frozenset[str]
    allows: tuple[Allow, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """What a caller wants to do. `brand` and `kind` are None where the RPC does not say them."""

    rpc: Rpc
    brand: str | None = None
    kind: ContextKind | None = None
    scopes: tuple[str, ...] = ()
    id_token: bool = False


class Policy:
    """The configured callers, looked up by certificate identity."""

    def __init__(self, callers: Iterable[Caller]) -> None:
        callers = tuple(callers)
        self._named: Mapping[str, Caller] = {caller.name: caller for caller in callers}
        owners = [(identity, caller) for caller in callers for identity in caller.identities]
        self._exact: Mapping[str, Caller] = dict(owners)
        self._below = [(identity[:-1], caller) for identity, caller in owners if identity.endswith(BELOW)]

    def caller(self, identity: str) -> Caller:
        """The caller of this identity, an exact one before one by its path. Raises UnknownCaller."""
        caller = self._exact.get(identity)
        if caller is not None and not identity.endswith(BELOW):
            return caller
        for path, caller in self._below:
            if identity.startswith(path) and _SEGMENTS.fullmatch(identity, len(path)):
                return caller
        raise UnknownCaller(
            f"no configured caller has the certificate identity {identity!r}: "
            "add it under [callers] or present another certificate"
        )

    def named(self, name: str) -> Caller:
        """The caller of this name. Raises UnknownCaller."""
        caller = self._named.get(name)
        if caller is None:
            raise UnknownCaller(f"no configured caller is named {name!r}: it was removed, or renamed")
        return caller

    @staticmethod
    def check(caller: Caller, call: Call) -> Allow:
        """The first entry that allows all of the call. Raises PolicyDenied."""
        for allow in caller.allows:
            if _allows(allow, call):
                return allow
        raise PolicyDenied(f"the policy of caller {caller.name!r} does not allow this {call.rpc.value}")


def _allows(allow: Allow, call: Call) -> bool:
    return (
        call.rpc in allow.rpcs
        and (call.brand is None or allow.brands is None or call.brand in allow.brands)
        and (call.kind is None or call.kind in allow.contexts)
        and (allow.scopes is None or allow.scopes.issuperset(call.scopes))
        and (allow.id_token or not call.id_token)
    )
