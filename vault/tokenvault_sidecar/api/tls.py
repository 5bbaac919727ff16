"""The server's side of mutual TLS, from files that may change while it runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import grpc
import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the server's certificate chain, its own first; its private key; whose clients are let in."""

    certificate: Path
    private_key: Path
    client_ca: Path


class TlsFilesInvalid(Exception):
    """The files cannot be used; says which, and why. Never holds what is in them."""


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials of one port that ask every client for a certificate.

    gRPC binds one port to one credentials object: call this for each. The
    files are read again when they change, for connections made after that;
    where the new ones are broken the old stay in use, and the log says so.
    Raises TlsFilesInvalid.
    """
    reader = _Reader(files)
    return grpc.dynamic_ssl_server_credentials(
        reader.initial,
        # The stubs do not know that None means "no change".
        cast("type[grpc.ServerCertificateConfiguration]", reader.changed),
        require_client_authentication=True,
    )


_Stamp = tuple[tuple[int, int, int] | None, ...]


class _Reader:
    """Called by gRPC, in its own threads, before each handshake: three stat calls where nothing changed."""

    def __init__(self, files: TlsFiles) -> None:
        self._files: Final = files
        # The stamp is taken before the files are read: a change between the two is seen the next time.
        self._seen = self._stamp()
        self.initial: Final = _load(files)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """What the files say now; None where that is nothing new, or nothing usable."""
        stamp = self._stamp()
        if stamp == self._seen:
            return None
        self._seen = stamp
        try:
            loaded = _load(self._files)
        except TlsFilesInvalid as problem:
            _log.error(
                "tls_files_invalid", problem=str(problem), remedy="put them right; the old stay in use"
            )
            return None
        _log.info("tls_files_reloaded", certificate=str(self._files.certificate))
        return loaded

    def _stamp(self) -> _Stamp:
        return tuple(map(_stamp, (self._files.certificate, self._files.private_key, self._files.client_ca)))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _load(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    """Read and check what gRPC takes without a look: it would only fail handshakes later, and not say why."""
    certificate, key, client_ca = (_read(f) for f in (files.certificate, files.private_key, files.client_ca))
    try:
        leaf = x509.load_pem_x509_certificates(certificate)[0]
    except ValueError:
        raise TlsFilesInvalid(f"{files.certificate} holds no PEM certificate") from None
    try:
        public_key = load_pem_private_key(key, password=None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise TlsFilesInvalid(f"{files.private_key} holds no PEM private key without a passphrase") from None
    if public_key != leaf.public_key():
        raise TlsFilesInvalid(f"{files.private_key} is not the private key of {files.certificate}")
    try:
        x509.load_pem_x509_certificates(client_ca)
    except ValueError:
        raise TlsFilesInvalid(f"{files.client_ca} holds no PEM certificate") from None
    return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=client_ca)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsFilesInvalid(f"{path} cannot be read: {error.strerror}") from None
