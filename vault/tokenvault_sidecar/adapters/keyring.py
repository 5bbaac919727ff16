"""The key hierarchy: the KEK from outside wraps the keys in the store (AES key wrap, RFC 3394)."""

import base64
import binascii
import hmac
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from tokenvault_sidecar.core.ports import Store, WrappedKey
from tokenvault_sidecar.core.sealing import Keyring

KEY_BYTES = 32


class KeyringError(Exception):
    """The keys cannot be opened; the text says which key and what to do, and holds none."""


def read_kek(path: Path) -> bytes:
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
    return kek


def fingerprint(kek: bytes) -> str:
    """Names a KEK without telling anything of it."""
    return hmac.digest(kek, b"tokenvault kek fingerprint", "sha256").hex()[:16]


async def open_keyring(store: Store, kek: bytes, now: float) -> Keyring:
    """The store's keys, unwrapped; made at the first start. Raises KeyringError, StoreUnavailable."""
    keys = await store.get_keys()
    if not keys:
        made = [new_key("index", kek, now), new_key("data", kek, now)]
        await store.add_keys(made, first=True)  # False: a peer was faster, its keys are the store's
        keys = await store.get_keys()
    return unwrap(keys, kek)


def new_key(purpose: str, kek: bytes, now: float) -> WrappedKey:
    """A new random key, wrapped. `purpose` is "data" or "index"."""
    return WrappedKey(
        id=secrets.token_hex(4),
        purpose=purpose,
        kek=fingerprint(kek),
        wrapped=aes_key_wrap(kek, os.urandom(KEY_BYTES)),
        created_at=now,
    )


def unwrap(keys: Iterable[WrappedKey], kek: bytes) -> Keyring:
    """The newest data key seals, all of them open. Raises KeyringError where the KEK is another."""
    opened: dict[str, dict[str, bytes]] = {"index": {}, "data": {}}
    for key in keys:
        try:
            opened[key.purpose][key.id] = aes_key_unwrap(kek, key.wrapped)
        except (InvalidUnwrap, KeyError):
            raise KeyringError(
                f"the store's {key.purpose} key {key.id} is wrapped by KEK {key.kek}, "
                f"and the KEK given is {fingerprint(kek)}: give the KEK this store was made with"
            ) from None
    if not opened["index"] or not opened["data"]:
        raise KeyringError("the store has lost its index or data key: restore it from a backup")
    (index_key,) = opened["index"].values()
    return Keyring(index_key=index_key, data_keys=opened["data"], active=list(opened["data"])[-1])
