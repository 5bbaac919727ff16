"""Secrets that a test knows of, and a search for them wherever they must not be."""

import base64
import json
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus

_FIRST, _PIECE = 8, 16


class Canaries:
    """Secrets by name. They are long and random, so that what is found is no accident.

    Codes are short, for people: in what a run writes some ten thousand numbers
    are as long, of which one is a code once in a thousand runs at most.
    """

    def __init__(self) -> None:
        self._secrets: dict[bytes, str] = {}

    def plant(self, name: str) -> str:
        """A new secret, to be put somewhere."""
        canary = f"canary-{secrets.token_urlsafe(18)}"
        self.know(name, canary)
        return canary

    def know(self, name: str, secret: str | bytes, *, least: int = _PIECE) -> None:
        """Search for this one, too; it has as many octets at `least`."""
        value = secret if isinstance(secret, bytes) else secret.encode()
        assert len(value) >= least, f"{name} is too short to be told from an accident"
        self._secrets.setdefault(value, name)

    def __len__(self) -> int:
        return len(self._secrets)

    def leaks(self, places: Mapping[str, bytes]) -> list[str]:
        """What was found where and how it was written; does not repeat it."""
        # By their first octets, so that each place is read once and not once for every disguise.
        sought: dict[bytes, list[tuple[bytes, str]]] = {}
        for secret, name in self._secrets.items():
            for form, text in disguises(secret):
                sought.setdefault(text[:_FIRST], []).append((text, f"{name}, {form}"))
        found = {
            f"{what}, in {place}"
            for place, content in places.items()
            for at in range(len(content))
            for text, what in sought.get(content[at : at + _FIRST], ())
            if content.startswith(text, at)
        }
        return sorted(found)


def disguises(secret: bytes) -> Iterator[tuple[str, bytes]]:
    """The ways in which it may be written, each with a name."""
    yield "as it is", secret
    yield "its beginning", secret[:_PIECE]
    yield "its end", secret[-_PIECE:]
    yield "in hex", secret.hex().encode()
    yield "in HEX", secret.hex().upper().encode()
    yield "backwards", secret[::-1]
    yield "in UTF-16", b"".join(bytes([octet, 0]) for octet in secret)
    for offset in range(3):
        # As part of a longer text: what the neighbours decide of is cut off.
        padding = b"\0" * offset
        for name, encode in (("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode)):
            first, last = (offset * 8 + 5) // 6, (offset + len(secret)) * 8 // 6
            yield f"in {name}, {offset} bytes in", encode(padding + secret)[first:last]
    try:
        text = secret.decode()
    except UnicodeDecodeError:
        return
    yield "percent-encoded", quote(text, safe="").encode()
    yield "as a path", quote(text).encode()
    yield "form-encoded", quote_plus(text).encode()
    yield "in JSON", json.dumps(text)[1:-1].encode()
    yield "in Python", repr(text)[1:-1].encode()


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a folder and below, by path."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
