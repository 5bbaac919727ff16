"""The development CA's certificates are good for TLS 1.3 both ways; `init` makes all or nothing."""

import base64
import socket
import ssl
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from tokenvault_sidecar import devkit
from tokenvault_sidecar.config import load_config
from tokenvault_sidecar.core.model import ContextKind
from tokenvault_sidecar.core.policy import Rpc
from tokenvault_sidecar.devkit import Development, DevelopmentCA, Issued


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


def test_init_makes_a_configuration_that_loads(tmp_path: Path) -> None:
    made = devkit.init(tmp_path / "vault")
    assert set(made) == set((tmp_path / "vault").iterdir())
    config = load_config(made[-1])
    assert config.warnings == ()
    bot, service = config.to_callers()
    assert bot.identities == {"spiffe://tokenvault.test/bot"}
    assert bot.allows[0].rpcs == set(Rpc)
    assert bot.allows[0].contexts == set(ContextKind)
    assert bot.allows[0].keeps_session_alive
    assert service.identities == {"spiffe://tokenvault.test/brand-service"}
    [allow] = service.allows
    assert allow.rpcs == {Rpc.GET_TOKEN}
    assert allow.contexts == {ContextKind.CONSUMER}
    assert not allow.keeps_session_alive


def test_private_files_are_their_owners_only(tmp_path: Path) -> None:
    made = devkit.init(tmp_path / "vault")
    private = {path.name for path in made if stat.S_IMODE(path.stat().st_mode) == 0o600}
    assert private == {
        "kek",
        "client-secret",
        "ca.key.pem",
        "server.key.pem",
        "bot.key.pem",
        "brand-service.key.pem",
    }
    assert stat.S_IMODE((tmp_path / "vault").stat().st_mode) == 0o700


def test_every_kek_is_a_new_one(tmp_path: Path) -> None:
    keks = {(devkit.init(tmp_path / name)[0].parent / "kek").read_bytes() for name in "ab"}
    assert len(keks) == 2
    assert all(len(base64.b64decode(kek, validate=False)) == 32 for kek in keks)


def test_init_takes_what_a_demo_needs(tmp_path: Path) -> None:
    development = Development(
        brand="other",
        issuer="http://127.0.0.1:1234",
        client_id='quo"ted',
        client_secret="fixture",
        redirect_uris=("http://127.0.0.1:1/a", "http://127.0.0.1:1/b"),
        consumer_scopes=("openid", "a"),
        conversation_scopes=("b",),
        listen=("127.0.0.1:0", "unix:v.sock"),
    )
    config = load_config(devkit.init(tmp_path / "vault", development)[-1])
    brand = config.brands["other"]
    assert (brand.issuer, brand.client_id) == (development.issuer, development.client_id)
    assert brand.client_secret is not None
    assert brand.client_secret.reveal() == "fixture"
    assert brand.redirect_uris == development.redirect_uris
    assert brand.contexts[ContextKind.CONVERSATION].scopes == ("b",)
    assert config.server.listen == ("127.0.0.1:0", f"unix:{tmp_path}/vault/v.sock")


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "kek").write_text("precious")
    (tmp_path / "bot.pem").symlink_to("nowhere")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(devkit.AlreadyThere) as caught:
        devkit.init(tmp_path)
    assert set(caught.value.paths) == {tmp_path / "kek", tmp_path / "bot.pem"}
    assert (tmp_path / "kek").read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} == {"kek", "bot.pem", "notes.txt"}


def test_init_uses_a_folder_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    devkit.init(tmp_path)
    assert load_config(tmp_path / "tokenvault.toml")


@pytest.mark.parametrize("folder", ["no/such/parent", "file", "file/below", "x" * 300])
def test_a_folder_that_cannot_be_made(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(devkit.CannotWrite, match=folder):
        devkit.init(tmp_path / folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_nothing_half_made_is_left(tmp_path: Path) -> None:
    """As on a full disk: a process that may write no file as long as the configuration, which comes last."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "from tokenvault_sidecar.cli import main; main(['init', sys.argv[1]])"
    )
    command = [sys.executable, "-B", "-c", code, str(tmp_path / "vault")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []
