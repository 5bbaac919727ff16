"""Who calls: the identity in the client's certificate."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from tokenvault_sidecar.core.errors import UnknownCaller

_DNS_NAME: Final = re.compile(rb"[A-Za-z0-9._-]+")


def identity(auth_context: Mapping[str, Iterable[bytes]]) -> str:
    """The one identity a certificate shows: its SPIFFE ID, else its DNS name (in lower case).

    Takes what gRPC knows of the peer (`ServicerContext.auth_context()`).
    Raises UnknownCaller where the connection is below TLS 1.3, and where the
    certificate names nobody or may name several (X.509-SVID section 2: one
    URI SAN). Common names, e-mail and IP addresses are no identities.
    """
    version = tuple(auth_context.get("ssl_tls_version", ()))
    # gRPC has no switch for a minimum version of its servers.
    if version != (b"TLSv1.3",):
        used = b" ".join(version).decode("ascii", "replace") or "no TLS"
        raise UnknownCaller(f"the connection uses {used}: connect with TLS 1.3")
    uris = tuple(auth_context.get("peer_uri", ()))
    if len(uris) > 1:
        raise UnknownCaller("the client certificate has several URI names: issue one with a single SPIFFE ID")
    if uris and uris[0].startswith(b"spiffe://"):
        if not uris[0].isascii():
            raise UnknownCaller("the client certificate's SPIFFE ID is not ASCII: issue one with a valid one")
        return uris[0].decode()
    names = tuple(auth_context.get("peer_dns", ()))
    if not names:
        raise UnknownCaller("the client certificate has no SPIFFE ID and no DNS name: issue one with either")
    if len(names) > 1:
        raise UnknownCaller("the client certificate has several DNS names: issue one with a single identity")
    # Nor may a DNS name pass for a SPIFFE ID.
    if not _DNS_NAME.fullmatch(names[0]):
        raise UnknownCaller("the client certificate's DNS name is a wildcard or invalid: issue a plain one")
    return names[0].decode().lower()
