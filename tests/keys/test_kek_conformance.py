"""What every source of the KEK must do, behind the port `Kek`: a new source is a new entry of `MADE`."""

import base64
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tokenvault_sidecar.adapters.kek import KEY_BYTES, CannotUnwrap, Kek, read_kek

KEY = bytes(range(KEY_BYTES))


def _in_a_file(folder: Path, name: str) -> Callable[[], Kek]:
    path = folder / name
    path.write_bytes(base64.b64encode(os.urandom(KEY_BYTES)))
    return lambda: read_kek(path)


MADE = {"file": _in_a_file}
"""By scheme: makes a key of this name at the source; what is returned opens it, each time anew."""

Open = Callable[[], Kek]


@pytest.fixture(params=list(MADE.values()), ids=list(MADE))
def opens(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Open, Open]:
    """Two keys at one source."""
    make: Callable[[Path, str], Open] = request.param
    return make(tmp_path, "one"), make(tmp_path, "another")


def test_what_is_wrapped_is_unwrapped_when_opened_again(opens: tuple[Open, Open]) -> None:
    wrapped = opens[0]().wrap(KEY, name="k-1")
    assert KEY not in wrapped
    assert opens[0]().unwrap(wrapped, name="k-1") == KEY


def test_another_key_unwraps_nothing(opens: tuple[Open, Open]) -> None:
    wrapped = opens[0]().wrap(KEY, name="k-1")
    with pytest.raises(CannotUnwrap):
        opens[1]().unwrap(wrapped, name="k-1")


def test_what_was_changed_is_refused(opens: tuple[Open, Open]) -> None:
    kek = opens[0]()
    wrapped = kek.wrap(KEY, name="k-1")
    for place in range(len(wrapped)):
        changed = bytearray(wrapped)
        changed[place] ^= 1
        with pytest.raises(CannotUnwrap):
            kek.unwrap(bytes(changed), name="k-1")
    for cut in (b"", wrapped[:-1], wrapped[:-8], wrapped[:8], wrapped + b"\0" * 8):
        with pytest.raises(CannotUnwrap):
            kek.unwrap(cut, name="k-1")


def test_the_fingerprint_is_the_keys_own_and_holds_nothing_of_it(
    opens: tuple[Open, Open], tmp_path: Path
) -> None:
    first, again, other = opens[0](), opens[0](), opens[1]()
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert len(bytes.fromhex(first.fingerprint)) == 8
    for file in tmp_path.iterdir():
        key = base64.b64decode(file.read_bytes())
        assert first.fingerprint not in key.hex()
        assert key.hex() not in repr(first)
