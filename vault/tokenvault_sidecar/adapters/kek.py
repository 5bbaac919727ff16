"""Key-encryption keys: where they are, and how they wrap the keys in the store."""

import base64
import binascii
import hmac
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

KEY_BYTES = 32


class KeyringError(ValueError):
    """The keys cannot be opened; the text says which key and what to do, and holds none."""


class CannotUnwrap(Exception):
    """Not wrapped by this KEK, or changed since."""


class Kek(Protocol):
    """A key-encryption key, here or elsewhere. `fingerprint` names it without telling anything of it.

    `name` is the id of the key that is wrapped: a source may bind to it what
    it wraps. Methods may block, and raise KeyringError where the source is away.
    """

    fingerprint: str

    def wrap(self, key: bytes, *, name: str) -> bytes:
        """The key, wrapped."""

    def unwrap(self, wrapped: bytes, *, name: str) -> bytes:
        """The key. Raises CannotUnwrap."""


class FileKek:
    """A KEK that was in a file: AES key wrap (RFC 3394)."""

    def __init__(self, key: bytes) -> None:
        self.fingerprint = hmac.digest(key, b"tokenvault kek fingerprint", "sha256").hex()[:16]
        self._key = key

    def wrap(self, key: bytes, *, name: str) -> bytes:
        return aes_key_wrap(self._key, key)

    def unwrap(self, wrapped: bytes, *, name: str) -> bytes:
        try:
            return aes_key_unwrap(self._key, wrapped)
        except InvalidUnwrap:
            raise CannotUnwrap from None


def read_kek(path: Path) -> FileKek:
    """The key-encryption key in a file: 32 bytes as base64 text. Raises KeyringError."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise KeyringError(f"the KEK file {path} cannot be read: {error.strerror}") from None
    try:
        kek = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        kek = b""
    if len(kek) != KEY_BYTES:
        raise KeyringError(
            f"the KEK file {path} must hold {KEY_BYTES} random bytes as base64: "
            f"make one with 'head -c {KEY_BYTES} /dev/urandom | base64'"
        )
    return FileKek(kek)
