"""Who calls: the identity in the client's certificate."""

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Final

from tokenvault_sidecar.core.errors import UnknownCaller
from tokenvault_sidecar.core.policy import Caller

current_caller: Final[ContextVar[Caller]] = ContextVar("current_caller")
"""The caller of the RPC under way; the guard sets it before a servicer is entered."""


def identity(auth_context: Mapping[str, Iterable[bytes]]) -> str:
    """The one identity a certificate shows: its SPIFFE ID, else its DNS name (in lower case).

    Takes what gRPC knows of the peer (`ServicerContext.auth_context()`).
    Raises UnknownCaller where the connection is below TLS 1.3, and where the
    certificate names nobody or may name several (X.509-SVID section 2: one
    URI SAN). Common names, e-mail and IP addresses are no identities.
    """
    version = _values(auth_context, "ssl_tls_version")
    # gRPC has no switch for a minimum version of its servers.
    if version != ["TLSv1.3"]:
        raise UnknownCaller(f"the connection uses {' '.join(version) or 'no TLS'}: connect with TLS 1.3")
    uris = _values(auth_context, "peer_uri")
    if len(uris) > 1:
        raise UnknownCaller("the client certificate has several URI names: issue one with a single SPIFFE ID")
    if uris and uris[0].startswith("spiffe://"):
        return uris[0]
    names = _values(auth_context, "peer_dns")
    if len(names) > 1:
        raise UnknownCaller("the client certificate has several DNS names: issue one with a single identity")
    if not names:
        raise UnknownCaller(
            "the client certificate has neither a SPIFFE ID nor a DNS name: issue one that has"
        )
    if "*" in names[0]:
        raise UnknownCaller(
            "the client certificate's DNS name is a wildcard: issue one that names one workload"
        )
    return names[0].lower()


def _values(auth_context: Mapping[str, Iterable[bytes]], key: str) -> list[str]:
    try:
        return [value.decode("ascii") for value in auth_context.get(key, ())]
    except UnicodeDecodeError:
        raise UnknownCaller("the client certificate has a name that is not ASCII (RFC 5280)") from None
