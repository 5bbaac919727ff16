"""What must be so for calls to be served."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from tokenvault_sidecar.core.ports import Clock, WrappedKey
from tokenvault_sidecar.ops.readiness import Check


class CertificateFile:
    """The server's certificate as its file has it, read anew when that changes.

    What cannot be read or is none leaves the last one known: TLS, too, goes on with that.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._leaf: x509.Certificate | None = None

    @property
    def leaf(self) -> x509.Certificate | None:
        """The server's own."""
        try:
            status = self._path.stat()
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp != self._seen:
                self._leaf = x509.load_pem_x509_certificates(self._path.read_bytes())[0]
                self._seen = stamp
        except (OSError, ValueError):
            pass
        return self._leaf


def certificate_valid(file: CertificateFile, clock: Clock) -> Check:
    """The certificate has begun, and is not over."""

    async def check() -> str | None:
        leaf, now = file.leaf, datetime.fromtimestamp(clock(), UTC)
        if leaf is not None and now >= leaf.not_valid_after_utc:
            return f"the server's certificate expired at {leaf.not_valid_after_utc:%FT%TZ}: renew it"
        if leaf is not None and now < leaf.not_valid_before_utc:
            begin = f"{leaf.not_valid_before_utc:%FT%TZ}"
            return f"the server's certificate is valid from {begin}: look at the clock"
        return None

    return check


def keys_open(stored: Callable[[], Awaitable[Sequence[WrappedKey]]], active: Callable[[], str]) -> Check:
    """The store still has the keys that are in use: without them nobody could open it after a restart.

    `active` is the id of the data key that seals.
    """

    async def check() -> str | None:
        keys = await stored()
        lost = "restore the store from a backup before this process ends"
        if not any(key.purpose == "index" for key in keys):
            return f"the store has lost its index key: {lost}"
        if not any(key.purpose == "data" and key.id == active() for key in keys):
            return f"the store has lost data key {active()}: {lost}"
        return None

    return check
