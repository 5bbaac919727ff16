"""The audit log: one JSON line per decision, chained so that no line can be taken out, changed or moved.

Each line ends in `mac`: HMAC-SHA-256 over the line before it (its mac) and
this line's own text, under a key derived from the KEK: without it nobody can
mend the chain after tampering. A new file, after rotation, goes on where the
old one ended. Beside the log, a file `….head` attests which line is the last,
so that lines cut off the end are missed too; only who kept an older head, and
puts both back, goes unseen.

Lines are handed to the operating system before the answer leaves, and are not
synced: a crash of the process loses none, a crash of the machine the last
seconds'. The next start notes in the log where its end is not the attested one.
"""

import fcntl
import hmac
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from tokenvault_sidecar.core.errors import StoreUnavailable

START: Final = "0" * 64
"""The mac before the first line of all."""

BROKEN_END: Final = {"event": "the log does not end where it was attested to"}
"""Noted at a start after lines were lost in a crash of the machine, or cut off."""

_MARK: Final = ',"mac":"'
_LONGEST_LINE: Final = 64 * 1024
_TAIL: Final = 64 + len('"}')


class AuditError(Exception):
    """The log cannot be opened, or is not whole; says which file and line."""


def audit_key(kek: bytes) -> bytes:
    """The chain's key."""
    return hmac.digest(kek, b"tokenvault audit chain", "sha256")


class AuditLog:
    """Appends to one file, which it holds locked: a second process needs a file of its own.

    `fail_closed`: what cannot be written raises StoreUnavailable, so that
    nothing leaves unrecorded; else it is told by `missed` alone.
    """

    def __init__(self, path: Path, key: bytes, *, fail_closed: bool = True, max_bytes: int = 0) -> None:
        """Open, or make with mode 0600. `max_bytes` 0: rotated by others. Raises AuditError."""
        self._path = path
        self._key = key
        self._fail_closed = fail_closed
        self._max_bytes = max_bytes
        self.missed = 0
        try:
            self._file = _open(path)
            self._head = os.open(_head_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._mac = _last_mac(path)
            self._size = os.fstat(self._file).st_size
            attested = os.read(self._head, 64)
            if (attested or self._mac != START) and attested != _attest(key, self._mac):
                self._append(BROKEN_END)
        except OSError as error:
            raise AuditError(f"the audit log {path} cannot be written: {error.strerror}") from None

    def write(self, facts: Mapping[str, object]) -> None:
        """Append one line. Raises StoreUnavailable where that fails, and the log fails closed."""
        try:
            if self._max_bytes and self._size >= self._max_bytes:
                self._rotate()
            self._append(facts)
        except OSError:
            self.missed += 1
            if self._fail_closed:
                raise StoreUnavailable(
                    "the audit log cannot be written, and nothing is released unrecorded: "
                    "check its disk and the log"
                ) from None

    def reopen(self) -> None:
        """Go on in a new file of the same name, after somebody moved the old one away."""
        try:
            same = os.fstat(self._file).st_ino == self._path.stat().st_ino
        except FileNotFoundError:
            same = False
        if not same:
            self._switch()

    def close(self) -> None:
        os.close(self._file)
        os.close(self._head)

    def _append(self, facts: Mapping[str, object]) -> None:
        text = json.dumps(facts, separators=(",", ":"))[:-1]
        mac = _mac(self._key, self._mac, text)
        line = f'{text}{_MARK}{mac}"}}\n'.encode()
        written = os.write(self._file, line)
        if written != len(line):
            os.ftruncate(self._file, self._size)  # half a line would break the chain
            raise OSError("short write")
        self._size += written
        self._mac = mac
        os.pwrite(self._head, _attest(self._key, mac), 0)

    def _rotate(self) -> None:
        numbers = (int(p.suffix[1:]) for p in _older(self._path))
        self._path.rename(self._path.with_name(f"{self._path.name}.{max(numbers, default=0) + 1}"))
        self._switch()

    def _switch(self) -> None:
        file = _open(self._path)
        os.close(self._file)
        self._file, self._size = file, os.fstat(file).st_size


def verify(path: Path, key: bytes) -> int:
    """Follow the chain through the log and what it was rotated to; how many lines.

    Raises AuditError at the first line that does not follow from the one
    before it, and where the last is not the attested one.
    """
    count, before = 0, START
    for where, line in _lines(path):
        text, mark, rest = line.rpartition(_MARK)
        if not mark or not hmac.compare_digest(f'{_mac(key, before, text)}"}}'.encode(), rest.encode()):
            raise AuditError(
                f"{where}: does not follow from the line before it: "
                "this line was changed, or lines before it were removed, added or moved"
            )
        before = rest[:64]
        count += 1
    try:
        attested = _head_path(path).read_bytes()
    except FileNotFoundError:
        attested = b""
    if not hmac.compare_digest(attested, _attest(key, before)) and (count or attested):
        raise AuditError(
            f"{path.name}: its last line is not the one attested to be: lines after it were cut off, "
            "or were lost when the machine crashed"
        )
    return count


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Where each line stands, and the line; oldest first."""
    for file in [*_older(path), path]:
        with file.open(encoding="utf-8", errors="replace") as stream:
            for number, line in enumerate(stream, 1):
                yield f"{file.name} line {number}", line.rstrip("\n")


def _older(path: Path) -> list[Path]:
    found = (p for p in path.parent.glob(f"{path.name}.*") if p.suffix[1:].isdecimal())
    return sorted(found, key=lambda p: int(p.suffix[1:]))


def _mac(key: bytes, before: str, text: str) -> str:
    return hmac.digest(key, f"{before}{text}".encode(), "sha256").hex()


def _open(path: Path) -> int:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise AuditError(
            f"the audit log {path} is another process's: give each sidecar a log of its own"
        ) from None
    return file


def _last_mac(path: Path) -> str:
    """The last whole line's mac, of this file or of the newest it was rotated to; half a line is cut off."""
    for file in [path, *reversed(_older(path))]:
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(size - _LONGEST_LINE, 0))
            tail = stream.read()
        whole = tail[: tail.rfind(b"\n") + 1]
        if file == path and len(whole) != len(tail):
            os.truncate(path, size - len(tail) + len(whole))
        if whole:
            return whole[-1 - _TAIL : -1][:64].decode("ascii", "replace")
    return START


def _attest(key: bytes, mac: str) -> bytes:
    return _mac(key, "head", mac).encode()


def _head_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.head")
