"""What every source of the KEK must do, behind the port `Kek`."""

import base64
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from tests.keys.sources import Sources
from tokenvault_sidecar.adapters.kek import KEY_BYTES, CannotUnwrap, Kek, KeyringError
from tokenvault_sidecar.config.kek_uri import KekSource, KekUri
from tokenvault_sidecar.wiring import open_kek

KEY = bytes(range(KEY_BYTES))
SCHEMES = ("file", "pkcs11", "aws-kms")
REFUSED = (CannotUnwrap, KeyringError)
"""A KMS may not tell what it cannot open from what it may not."""

Open = Callable[[], Kek]
"""Opens the key, each time anew."""


@pytest.fixture(params=SCHEMES)
def opens(request: pytest.FixtureRequest, sources: Sources, tmp_path: Path) -> tuple[Open, Open]:
    """Two keys at one source."""
    adapter: TypeAdapter[KekSource] = TypeAdapter(KekUri)

    def made() -> Open:
        key = sources.make(request.param, f"kek-{uuid.uuid4()}")
        return lambda: open_kek(adapter.validate_python(key.uri, context=tmp_path))

    return made(), made()


def test_what_is_wrapped_is_unwrapped_when_opened_again(opens: tuple[Open, Open]) -> None:
    wrapped = opens[0]().wrap(KEY, name="k-1")
    assert KEY not in wrapped
    assert opens[0]().unwrap(wrapped, name="k-1") == KEY


def test_another_key_unwraps_nothing(opens: tuple[Open, Open]) -> None:
    wrapped = opens[0]().wrap(KEY, name="k-1")
    with pytest.raises(REFUSED):
        opens[1]().unwrap(wrapped, name="k-1")


def test_what_was_changed_is_refused(opens: tuple[Open, Open]) -> None:
    kek = opens[0]()
    wrapped = kek.wrap(KEY, name="k-1")
    for place in range(len(wrapped)):
        changed = bytearray(wrapped)
        changed[place] ^= 1
        with pytest.raises(REFUSED):
            kek.unwrap(bytes(changed), name="k-1")
    for cut in (b"", wrapped[:-1], wrapped[:-8], wrapped[:8], wrapped + b"\0" * 8):
        with pytest.raises(REFUSED):
            kek.unwrap(cut, name="k-1")


def test_a_wrapped_key_is_bound_to_its_name_where_the_source_can(opens: tuple[Open, Open]) -> None:
    """AES key wrap binds nothing: there the store's own records do, which another key does not open."""
    kek = opens[0]()
    wrapped = kek.wrap(KEY, name="k-1")
    try:
        assert kek.unwrap(wrapped, name="k-2") == KEY
        assert not hasattr(kek, "source") or "PKCS" in str(kek.source)
    except CannotUnwrap:
        assert "AWS" in str(getattr(kek, "source", ""))


def test_the_fingerprint_is_the_keys_own(opens: tuple[Open, Open]) -> None:
    first, again, other = opens[0](), opens[0](), opens[1]()
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert len(bytes.fromhex(first.fingerprint)) == 8


def test_of_a_file_nothing_of_the_key_shows(sources: Sources, tmp_path: Path) -> None:
    uri = sources.file("shown").uri
    kek = open_kek(TypeAdapter(KekUri).validate_python(uri, context=tmp_path))
    key = base64.b64decode(Path(uri.removeprefix("file:")).read_bytes())
    assert kek.fingerprint not in key.hex()
    assert key.hex() not in repr(kek)
