"""Who a certificate says it is."""

import pytest

from tokenvault_sidecar.api.callers import identity
from tokenvault_sidecar.core.errors import UnknownCaller

SPIFFE = b"spiffe://platform.example/bot"


def auth(
    *, uris: tuple[bytes, ...] = (), dns: tuple[bytes, ...] = (), tls: tuple[bytes, ...] = (b"TLSv1.3",)
) -> dict[str, tuple[bytes, ...]]:
    """What gRPC knows of a peer; keys without values are absent there."""
    found = {
        "transport_security_type": (b"ssl",),
        "x509_common_name": (b"someone",),
        "x509_subject_alternative_name": uris + dns,
        "peer_uri": uris,
        "peer_dns": dns,
        "peer_ip": (b"10.0.0.1",),
        "ssl_tls_version": tls,
    }
    return {key: values for key, values in found.items() if values}


@pytest.mark.parametrize(
    ("uris", "dns", "expected"),
    [
        ((SPIFFE,), (), SPIFFE.decode()),
        ((SPIFFE,), (b"bot.example",), SPIFFE.decode()),
        ((SPIFFE,), (b"a.example", b"*.example"), SPIFFE.decode()),
        ((), (b"bot.example",), "bot.example"),
        ((), (b"Bot.Example",), "bot.example"),
        ((b"https://bot.example/",), (b"bot.example",), "bot.example"),
    ],
)
def test_the_spiffe_id_counts_else_the_dns_name(
    uris: tuple[bytes, ...], dns: tuple[bytes, ...], expected: str
) -> None:
    assert identity(auth(uris=uris, dns=dns)) == expected


@pytest.mark.parametrize(
    ("uris", "dns", "why"),
    [
        ((SPIFFE, SPIFFE + b"2"), (), "several URI names"),
        ((SPIFFE, b"https://bot.example/"), (), "several URI names"),
        ((), (b"a.example", b"b.example"), "several DNS names"),
        ((), (b"*.example",), "wildcard"),
        ((), (SPIFFE,), "invalid"),
        ((), (b"bot.example\0.evil.example",), "invalid"),
        ((), (b"",), "invalid"),
        ((b"https://bot.example/",), (), "no DNS name"),
        ((), (), "no DNS name"),
        ((b"spiffe://platform.example/b\xc3\xb6t",), (), "not ASCII"),
    ],
)
def test_a_certificate_without_one_clear_identity_is_refused(
    uris: tuple[bytes, ...], dns: tuple[bytes, ...], why: str
) -> None:
    with pytest.raises(UnknownCaller, match=why):
        identity(auth(uris=uris, dns=dns))


@pytest.mark.parametrize("tls", [(b"TLSv1.2",), (b"TLSv1.1",), (), (b"TLSv1.3", b"TLSv1.2")])
def test_below_tls_1_3_nobody_is_known(tls: tuple[bytes, ...]) -> None:
    with pytest.raises(UnknownCaller, match=r"connect with TLS 1\.3"):
        identity(auth(uris=(SPIFFE,), tls=tls))
