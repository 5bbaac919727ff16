"""The gRPC server: where it listens, and what it puts up with."""

import os
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1._async import HealthServicer as HealthServicer
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha.reflection import SERVICE_NAME as REFLECTION
from grpc_reflection.v1alpha.reflection import enable_server_reflection

from tokenvault.v1.token_vault_pb2 import DESCRIPTOR
from tokenvault.v1.token_vault_pb2_grpc import TokenVaultServicer, add_TokenVaultServicer_to_server
from tokenvault_sidecar.api.guard import MAX_METADATA, Guard
from tokenvault_sidecar.api.tls import TlsFiles, server_credentials
from tokenvault_sidecar.api.unserved import new_server
from tokenvault_sidecar.listening import IN_USE, CannotListen, split_address

SERVICE: Final = DESCRIPTOR.services_by_name["TokenVault"].full_name
"""The vault's full name, by which health knows it too."""

HealthStatus = HealthCheckResponse.ServingStatus
"""SERVING or NOT_SERVING."""

_UNIX: Final = "unix:"
_MAX_REQUEST: Final = 64 * 1024
_MAX_CONNECTIONS: Final = 1024
_MAX_STREAMS: Final = 2000
_MAX_PENDING: Final = 10_000
_PROBE_SECONDS: Final = 1.0


def build_server(
    servicer: TokenVaultServicer,
    guard: Guard,
    listen: Sequence[str],
    tls: TlsFiles,
    *,
    max_connection_age: float,
    longest_call: float = 60.0,
    health: HealthServicer,
    shared: bool = False,
    unix_mode: int = 0o660,
) -> tuple[grpc.aio.Server, tuple[str, ...]]:
    """A server that listens, not started yet, and its addresses with the ports it got.

    `listen` has "host:port", port 0 for any free one, and "unix:/path", a
    socket of mode `unix_mode`; mutual TLS on all of them. `shared` is whether
    other processes listen on the same ports (SO_REUSEPORT). A connection is
    asked to close after `max_connection_age` seconds, and closed after
    `longest_call` more, so that none outlives a change of certificates for
    long. To be called with the loop running.
    Beside the vault it serves `health`, and reflection, to whom the guard
    lets. Raises CannotListen and TlsFilesInvalid.
    """
    server = new_server((guard,), server_options(max_connection_age, longest_call, shared=shared))
    add_TokenVaultServicer_to_server(servicer, server)
    add_HealthServicer_to_server(health, server)
    enable_server_reflection([SERVICE, HEALTH, REFLECTION], server)
    bound = tuple(_bind(server, address, tls, unix_mode) for address in listen)
    return server, bound


def server_options(
    max_connection_age: float, longest_call: float = 60.0, *, shared: bool = False
) -> list[tuple[str, int]]:
    """gRPC's channel arguments; takes seconds."""
    return [
        ("grpc.so_reuseport", int(shared)),  # else a port in use is an error
        ("grpc.max_receive_message_length", _MAX_REQUEST),
        ("grpc.max_metadata_size", MAX_METADATA),
        ("grpc.absolute_max_metadata_size", MAX_METADATA),
        ("grpc.max_allowed_incoming_connections", _MAX_CONNECTIONS),
        ("grpc.max_concurrent_streams", _MAX_STREAMS),
        # Not yet looked at. Of more gRPC cancels some by chance, whoever's they are.
        ("grpc.server.max_pending_requests", _MAX_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", 2 * _MAX_PENDING),
        ("grpc.max_connection_age_ms", int(max_connection_age * 1000)),
        # Else a stream without end, as health's Watch is, would hold it open.
        ("grpc.max_connection_age_grace_ms", int(longest_call * 1000)),
        ("grpc.server_handshake_timeout_ms", 10_000),
        ("grpc.http2.settings_timeout", 10_000),  # to acknowledge these limits
        # Ask a silent client whether it is still there; end those that ask us too often.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 2),
    ]


def _bind(server: grpc.aio.Server, address: str, tls: TlsFiles, unix_mode: int) -> str:
    credentials = server_credentials(tls)
    if address.startswith(_UNIX):
        _clear(Path(address.removeprefix(_UNIX)))
        with _umask(0o777 & ~unix_mode):
            _add_port(server, address, credentials, "its folder must be there and writable, its path short")
        return address
    host, _ = split_address(address)
    got = _add_port(server, address, credentials, IN_USE)
    return f"{host}:{got}"


def _add_port(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials, likely: str) -> int:
    """The port it got. gRPC writes the cause to stderr but does not tell us."""
    try:
        return server.add_secure_port(address, credentials)
    except RuntimeError:
        raise CannotListen(f"cannot listen on {address}: {likely}") from None


def _clear(path: Path) -> None:
    """Make way for a socket: gRPC itself would replace even one that is listened on."""
    if not path.is_absolute():
        raise CannotListen(f"unix:{path} is no address to listen on: write an absolute path")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise CannotListen(f"cannot listen on unix:{path}: {error.strerror}") from None
    if not stat.S_ISSOCK(mode):
        raise CannotListen(f"cannot listen on unix:{path}: a file that is no socket is in the way")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        except OSError as error:
            raise CannotListen(f"cannot listen on unix:{path}: {error.strerror or 'no answer'}") from None
        else:
            raise CannotListen(f"cannot listen on unix:{path}: another process is listening there")


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    """The socket gets its mode as it is made, so that there is no moment with another."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)
