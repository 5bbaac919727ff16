"""The development CA's certificates are good for TLS 1.3 both ways, and only from their own CA."""

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from tokenvault_sidecar.devkit import DevelopmentCA, Issued


@pytest.fixture(scope="module")
def ca() -> DevelopmentCA:
    return DevelopmentCA.create("tokenvault development")


def server_certificate(ca: DevelopmentCA) -> Issued:
    return ca.issue(name="server", dns=["localhost"], ips=["127.0.0.1", "::1"])


def context(side: ssl.Purpose, issued: Issued, trusted: bytes, folder: Path) -> ssl.SSLContext:
    """An mTLS context: CLIENT_AUTH is the server's side."""
    pem = folder / f"{side.name}.pem"
    pem.write_bytes(issued.private_key_pem + issued.certificate_pem)
    result = ssl.create_default_context(side, cadata=trusted.decode())
    result.load_cert_chain(pem)
    result.verify_mode = ssl.CERT_REQUIRED
    result.verify_flags |= ssl.VERIFY_X509_STRICT
    return result


def meet(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> dict[str, object]:
    """One handshake over a socket pair; what the server sees of the client's certificate."""
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    theirs.settimeout(10)
    seen: list[dict[str, object]] = []

    def serve() -> None:
        try:
            with server.wrap_socket(ours, server_side=True) as tls:
                seen.append(dict(tls.getpeercert() or {}))
                tls.sendall(b"x")
        except OSError:
            ours.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(theirs, server_hostname=name) as tls:
            assert tls.recv(1) == b"x"
            assert tls.version() == "TLSv1.3"
    finally:
        theirs.close()
        thread.join(10)
    return seen[0]


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_certificates_meet_in_mutual_tls(ca: DevelopmentCA, tmp_path: Path, name: str) -> None:
    server = context(ssl.Purpose.CLIENT_AUTH, server_certificate(ca), ca.certificate_pem, tmp_path)
    bot = ca.issue(name="bot", uris=["spiffe://tokenvault.test/bot"])
    seen = meet(server, context(ssl.Purpose.SERVER_AUTH, bot, ca.certificate_pem, tmp_path), name)
    assert seen["subjectAltName"] == (("URI", "spiffe://tokenvault.test/bot"),)


def test_another_authoritys_certificate_is_refused(ca: DevelopmentCA, tmp_path: Path) -> None:
    stranger = DevelopmentCA.create("tokenvault development").issue(name="bot")
    server = context(ssl.Purpose.CLIENT_AUTH, server_certificate(ca), ca.certificate_pem, tmp_path)
    client = context(ssl.Purpose.SERVER_AUTH, stranger, ca.certificate_pem, tmp_path)
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        meet(server, client, "localhost")


def test_validity_is_as_asked(ca: DevelopmentCA) -> None:
    start = datetime(2020, 1, 1, tzinfo=UTC)
    issued = ca.issue(name="old", not_before=start, lifetime=timedelta(days=2))
    certificate = x509.load_pem_x509_certificate(issued.certificate_pem)
    assert certificate.not_valid_before_utc == start
    assert certificate.not_valid_after_utc == start + timedelta(days=2)


def test_private_keys_are_not_shown(ca: DevelopmentCA) -> None:
    assert "PRIVATE" not in repr(ca.issue(name="bot"))
    assert "PRIVATE" not in repr(ca)
