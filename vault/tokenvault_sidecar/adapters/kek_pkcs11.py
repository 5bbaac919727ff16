"""A key-encryption key that never leaves a PKCS #11 token: AES key wrap (RFC 3394) on the token."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenvault_sidecar.adapters.kek import CannotUnwrap, KeyringError

# A login is the process's, not the session's: two at once would log in twice, or out under each other.
_ONE_AT_A_TIME = threading.Lock()
_PROBE = b"tokenvault's kek fingerprint, 32"


@dataclass(frozen=True, slots=True)
class Pkcs11Source:
    """Which key: the token's and the key's labels, the library that reaches it, and the file with the PIN."""

    token: str
    label: str
    module: Path
    pin_file: Path

    def __str__(self) -> str:
        return f"the KEK {self.label!r} on the PKCS #11 token {self.token!r}"


class Pkcs11Kek:
    """A session for each use, so that a token that was away needs no care once it is back.

    Raises KeyringError where the token cannot be used, at once and at each use.
    """

    def __init__(self, source: Pkcs11Source) -> None:
        self.source = source
        # AES key wrap is deterministic: a key names itself the same each time. A hash tells nothing of it.
        self.fingerprint = hashlib.sha256(self.wrap(_PROBE, name="")).hexdigest()[:16]

    def wrap(self, key: bytes, *, name: str) -> bytes:
        with self._opened() as (pkcs11, session, kek):
            kind = {
                pkcs11.Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY,
                pkcs11.Attribute.KEY_TYPE: pkcs11.KeyType.AES,
                pkcs11.Attribute.VALUE: key,
            }
            inner = session.create_object(kind | _passing(pkcs11))
            return bytes(kek.wrap_key(inner, mechanism=pkcs11.Mechanism.AES_KEY_WRAP))

    def unwrap(self, wrapped: bytes, *, name: str) -> bytes:
        with self._opened() as (pkcs11, _, kek):
            # Tokens tell a failed integrity check by different codes, softer ones by a general error.
            refused = (
                pkcs11.exceptions.GeneralError,
                pkcs11.exceptions.FunctionFailed,
                pkcs11.exceptions.ArgumentsBad,
                pkcs11.exceptions.WrappedKeyInvalid,
                pkcs11.exceptions.WrappedKeyLenRange,
                pkcs11.exceptions.EncryptedDataInvalid,
                pkcs11.exceptions.EncryptedDataLenRange,
            )
            try:
                key = kek.unwrap_key(
                    pkcs11.ObjectClass.SECRET_KEY,
                    pkcs11.KeyType.AES,
                    wrapped,
                    mechanism=pkcs11.Mechanism.AES_KEY_WRAP,
                    template=_passing(pkcs11),
                )
            except refused:
                raise CannotUnwrap from None
            return bytes(key[pkcs11.Attribute.VALUE])

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any, Any]]:
        """The library's module, a session, and the KEK in it."""
        source = self.source
        try:
            import pkcs11
            import pkcs11.exceptions
        except ImportError:
            raise KeyringError(
                f"{source} needs python-pkcs11: pip install 'tokenvault-sidecar[pkcs11]'"
            ) from None
        try:
            pin = source.pin_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise KeyringError(f"{source}: its PIN file {source.pin_file} cannot be read") from None
        with _ONE_AT_A_TIME:
            try:
                token = pkcs11.lib(str(source.module)).get_token(token_label=source.token)
                with token.open(user_pin=pin) as session:
                    kek = session.get_key(
                        object_class=pkcs11.ObjectClass.SECRET_KEY,
                        key_type=pkcs11.KeyType.AES,
                        label=source.label,
                    )
                    yield pkcs11, session, kek
            except pkcs11.exceptions.PKCS11Error as error:
                raise KeyringError(
                    f"{source} cannot be used ({type(error).__name__}): see that the module {source.module} "
                    "is installed, the token is there, its PIN is right and the key may wrap and unwrap"
                ) from None


def _passing(pkcs11: Any) -> dict[Any, Any]:
    """What makes an object one that is gone with the session, and that can be read."""
    attribute = pkcs11.Attribute
    return {attribute.TOKEN: False, attribute.SENSITIVE: False, attribute.EXTRACTABLE: True}
