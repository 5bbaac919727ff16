"""How the sidecar is reached: address, mutual TLS from files, environment."""

import os
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import grpc

StrPath = str | os.PathLike[str]

_VARIABLES = {
    "address": ("TOKENVAULT_ADDRESS", 'the sidecar\'s address, "host:port" or "unix:/path"'),
    "ca": ("TOKENVAULT_CA", "file of the certificate authority that issued the sidecar's certificate, PEM"),
    "certificate": ("TOKENVAULT_CERT", "file of this caller's certificate, PEM"),
    "private_key": ("TOKENVAULT_KEY", "file of that certificate's private key, PEM"),
}

_OPTIONS = (
    # What is repeated by itself is said beside the proto, for all languages; the name server is not asked.
    (
        "grpc.service_config",
        files("tokenvault.v1").joinpath("token_vault_grpc_service_config.json").read_text(),
    ),
    ("grpc.service_config_disable_resolution", 1),
    # The sidecar is near: find out fast that it is back after a restart.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A dead peer is noticed during a call; idle connections stay silent, as servers want it.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # https_proxy is meant for the way out, not for the way to the sidecar.
    ("grpc.enable_http_proxy", 0),
)


_LOOK_EVERY = 1.0


@dataclass(frozen=True, slots=True)
class Files:
    """What a caller connects with, as PEM files."""

    ca: StrPath
    certificate: StrPath
    private_key: StrPath

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises ValueError for a file that is not PEM, OSError for no file."""
        return grpc.ssl_channel_credentials(
            root_certificates=read_pem(self.ca, "CERTIFICATE"),
            private_key=read_pem(self.private_key, "PRIVATE KEY"),
            certificate_chain=read_pem(self.certificate, "CERTIFICATE"),
        )

    def check(self) -> None:
        """Raises ValueError or OSError where they are not in order: half-written, or of two pairs."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.ca)
        context.load_cert_chain(self.certificate, self.private_key, password="")

    def state(self) -> tuple[tuple[int, int, int], ...]:
        """Changes when a file does. Raises OSError."""
        stats = [Path(path).stat() for path in (self.ca, self.certificate, self.private_key)]
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)


class Connection:
    """What a channel is opened with: `credentials` anew when the files have changed."""

    def __init__(self, address: str, files: Files, options: tuple[tuple[str, str | int], ...]) -> None:
        self.address = address
        self.options = options
        self._files = files
        self._lock = threading.Lock()
        self._state = files.state()
        self._look_at = time.monotonic() + _LOOK_EVERY
        self.credentials = files.credentials()

    def changed(self) -> bool:
        """Whether there are new `credentials`. Looks once a second; broken files change nothing."""
        if time.monotonic() < self._look_at:
            return False
        with self._lock:
            if time.monotonic() < self._look_at:
                return False
            self._look_at = time.monotonic() + _LOOK_EVERY
            try:
                state = self._files.state()
                if state == self._state:
                    return False
                self._files.check()
                self.credentials = self._files.credentials()
            except (ValueError, OSError):  # an ssl.SSLError too; it is looked at again
                return False
            self._state = state
            return True


def connection(
    address: str, *, ca: StrPath, certificate: StrPath, private_key: StrPath, server_name: str | None
) -> Connection:
    """Read the files. Raises ValueError for a bad address or a file that is not PEM, OSError for no file."""
    if ":" not in address:
        raise ValueError(f'address {address!r}: write "host:port", "dns:host:port" or "unix:/path"')
    if server_name is None and address.startswith("unix:"):
        server_name = "localhost"  # a path is no name that a certificate could carry
    name = (("grpc.ssl_target_name_override", server_name),) if server_name else ()
    return Connection(address, Files(ca, certificate, private_key), (*_OPTIONS, *name))


def from_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The address and file names by parameter name. Raises ValueError naming each variable not set."""
    missing = [f"{name} ({means})" for name, means in _VARIABLES.values() if not environment.get(name)]
    if missing:
        raise ValueError(f"not set in the environment: {'; '.join(missing)}")
    return {parameter: environment[name] for parameter, (name, _) in _VARIABLES.items()}


def read_pem(path: StrPath, label: str) -> bytes:
    """The file's content. Raises ValueError where it holds no such PEM block, OSError; both name it."""
    # gRPC itself would say no more than that the connection failed
    content = Path(path).read_bytes()
    if f"{label}-----".encode() not in content:
        raise ValueError(f"{os.fspath(path)}: holds no PEM {label}")
    return content
