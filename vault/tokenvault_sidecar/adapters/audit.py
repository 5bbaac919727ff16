"""The audit log: one JSON line per decision, chained so that no line can be taken out, changed or moved.

Each line ends in `mac`: keyed BLAKE2b (RFC 7693) over the line before it (its
mac) and this line's own text, under a key derived from the store's index key,
which no rotation of keys changes: without it nobody can mend the chain after
tampering. BLAKE2b as Python's own takes a quarter of the time that OpenSSL's
HMAC does where calls are few enough to find it out of the processor's cache.
A new file, after rotation, goes on where the old one ended; which follows which
is told by the chain, not by their names.
Beside the log, a file `….head` attests which line is the last, by the half of
that line's hash that is not in the line, so that lines cut off the end are
missed too; only who kept an older head, and puts it back
with what it attests, goes unseen.

Lines are handed to the operating system before the answer leaves, and are not
synced: a crash of the process loses none, a crash of the machine the last
seconds'. The next start notes in the log where its end is not the attested one.
"""

import fcntl
import glob
import hashlib
import hmac
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO, Final

import structlog
from pydantic_core import to_json

from tokenvault_sidecar.core.errors import StoreUnavailable
from tokenvault_sidecar.core.sealing import Keyring

START: Final = b"0" * 64
"""The mac before the first line of all."""

BROKEN_END: Final = {"event": "the log does not end where it was attested to"}
"""Noted at a start after lines were lost in a crash of the machine, or cut off."""

UNWRITTEN: Final = "lines could not be written"
"""The event noted, with their number, once the log can be written again."""

_MARK: Final = b',"mac":"'
_END: Final = b'"}\n'
_LONGEST_LINE: Final = 64 * 1024
_TRIES: Final = 5
_MOVING: Final = 0.02
"""Seconds to wait first for a file that is being moved; doubled each time."""

_log = structlog.get_logger()


class AuditError(Exception):
    """The log cannot be opened, or is not whole; says which file and line."""


def audit_key(keyring: Keyring) -> bytes:
    """The chain's key."""
    return keyring.blind(b"tokenvault audit chain")


def worker_log(path: Path, worker: int) -> Path:
    """The log of one of several workers, where the configuration names `path`: each has its own chain.

    Not `path` with something at its end, which is what it was rotated to.
    """
    return path.with_name(f"worker-{worker}.{path.name}")


def logs(path: Path, workers: int) -> list[Path]:
    """All there must be where so many workers serve, and those of others that did before."""
    own = [worker_log(path, number + 1) for number in range(workers)] if workers > 1 else [path]
    others = sorted(path.parent.glob(f"worker-*.{glob.escape(path.name)}"))
    return own + [log for log in (path, *others) if log not in own and log.exists()]


class AuditLog:
    """Appends to one file, and holds the one beside it locked: a second process needs a log of its own.

    `fail_closed`: what cannot be written raises StoreUnavailable, so that
    nothing leaves unrecorded; else how many lines are missing is noted later.
    """

    def __init__(self, path: Path, key: bytes, *, fail_closed: bool = True, max_bytes: int = 0) -> None:
        """Open, or make with mode 0600. `max_bytes` 0: rotated by others. Raises AuditError."""
        self._path = path
        self._keyed = _keyed(key)
        self._fail_closed = fail_closed
        self._max_bytes = max_bytes
        self._missed = 0
        try:
            self._head = _locked(path)  # which nobody renames, as happens to the log
            self._file = _open(path)
            last = _last_lines(path)
            self._mac = _parts(last[-1])[1] if last else START
            self._size = os.fstat(self._file).st_size
            attested = os.read(self._head, 64)
            # A process killed in between had written the line, but not attested it yet.
            if attested not in (_attesting(self._keyed, last) or [b""]):
                self._append(BROKEN_END)
        except OSError as error:
            raise _unwritable(path, error) from None

    def write(self, facts: Mapping[str, object]) -> None:
        """Append one line. Raises StoreUnavailable where that fails, and the log fails closed."""
        try:
            if self._max_bytes and self._size >= self._max_bytes:
                self._rotate()
            if self._missed:
                self._append({"event": UNWRITTEN, "lines": self._missed})
                _log.warning("audit_written_again", missed=self._missed)
                self._missed = 0
            self._append(facts)
        except OSError as error:
            self._missed += 1
            if self._missed == 1:
                _log.error("audit_unwritable", problem=str(_unwritable(self._path, error)))
            if self._fail_closed:
                raise StoreUnavailable(
                    "the audit log cannot be written, and nothing is released unrecorded: "
                    "check its disk and the log"
                ) from None

    def reopen(self) -> None:
        """Go on in a new file of the same name, where somebody moved the old one away. Raises AuditError."""
        try:
            try:
                same = os.fstat(self._file).st_ino == self._path.stat().st_ino
            except FileNotFoundError:
                same = False
            if not same:
                self._switch()
        except OSError as error:
            raise _unwritable(self._path, error) from None

    def close(self) -> None:
        os.close(self._file)
        os.close(self._head)

    def _append(self, facts: Mapping[str, object]) -> None:
        text = to_json(facts)[:-1]
        mac, attesting = _link(self._keyed, self._mac, text)
        line = b"".join((text, _MARK, mac, _END))
        written = os.write(self._file, line)
        if written != len(line):  # half a line would break the chain
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError("short write")
        self._size += written
        self._mac = mac
        os.pwrite(self._head, attesting, 0)

    def _rotate(self) -> None:
        number = max((_number(file) for file in _older(self._path)), default=0) + 1
        with suppress(FileNotFoundError):  # somebody else did
            self._path.rename(self._path.with_name(f"{self._path.name}.{number}"))
        self._switch()

    def _switch(self) -> None:
        file = _open(self._path)
        os.close(self._file)
        self._file, self._size = file, os.fstat(file).st_size


def verify(path: Path, key: bytes) -> int:
    """Follow the chain through the log and what it was rotated to; how many lines.

    Raises AuditError at the first line that does not follow from the one
    before it, and where the attested line is missing; OSError. The log may be
    written and rotated meanwhile.
    """
    keyed = _keyed(key)
    for tried in range(_TRIES):
        attested = _attested(path)  # before the lines: others may follow it while they are read
        try:
            return _verify(path, keyed, attested)
        except FileNotFoundError:  # perhaps just being moved
            time.sleep(_MOVING * 2**tried)
        except AuditError:
            if _attested(path) == attested:  # nobody was writing, and moving files
                raise
    return _verify(path, keyed, _attested(path))


def _verify(path: Path, keyed: hashlib.blake2b, attested: bytes) -> int:
    count, before, found = 0, START, False
    with ExitStack() as stack:
        # The log first: moved away in between it is met twice, the other way round not at all.
        log = stack.enter_context(path.open("rb"))
        opened = [(file.name, stack.enter_context(file.open("rb"))) for file in _older(path)]
        unique = {os.fstat(file.fileno()).st_ino: (name, file) for name, file in [*opened, (path.name, log)]}
        files = [(name, file) for name, file in unique.values() if _first(file)]
        while files:
            name, file = next((f for f in files if _follows(keyed, before, _first(f[1]))), files[0])
            files.remove((name, file))
            for number, line in enumerate(file, 1):
                if not files and not line.endswith(b"\n"):
                    break  # being written, or by a process that was killed: attested lines are whole
                link = _follows(keyed, before, line)
                if link is None:
                    raise AuditError(
                        f"{name} line {number}: does not follow from the line before it: "
                        "this line was changed, or lines before it were removed, added or moved"
                    )
                count, before = count + 1, link[0]
                found = found or hmac.compare_digest(attested, link[1])
    if not found and (count or attested):
        raise AuditError(
            f"{path.name}: the line attested to be its last is not there: lines were cut off its end, "
            "or were lost when the machine crashed"
        )
    return count


def _follows(keyed: hashlib.blake2b, before: bytes, line: bytes) -> tuple[bytes, bytes] | None:
    """The line's link, where it is the right one after the mac `before`."""
    text, _ = _parts(line)
    link = _link(keyed, before, text)
    return link if hmac.compare_digest(b"".join((text, _MARK, link[0], _END)), line) else None


def _first(file: BinaryIO) -> bytes:
    line = file.readline()
    file.seek(0)
    return line


def _older(path: Path) -> list[Path]:
    """What it was rotated to, by us or by others: oldest first, as far as can be told without the chain."""
    names = (f"{path.name}.", f"{path.name}-")
    found = [file for file in path.parent.iterdir() if file.name.startswith(names)]
    older = [file for file in found if file != _head_path(path)]
    return sorted(older, key=lambda file: (file.stat().st_mtime_ns, _number(file)))


def _number(file: Path) -> int:
    number = file.suffix[1:]
    return int(number) if number.isdecimal() else 0


def _keyed(key: bytes) -> hashlib.blake2b:
    """To copy for each line."""
    return hashlib.blake2b(key=key)


def _link(keyed: hashlib.blake2b, before: bytes, text: bytes) -> tuple[bytes, bytes]:
    """A line's mac, and what attests that it is the last: one hash's halves. No line shows the second."""
    line = keyed.copy()
    line.update(before + text)
    both = line.hexdigest().encode()
    return both[:64], both[64:]


def _parts(line: bytes) -> tuple[bytes, bytes]:
    """A line's text and mac, as it has them."""
    text, _, rest = line.rpartition(_MARK)
    return text, rest[:64]


def _attesting(keyed: hashlib.blake2b, last: Sequence[bytes]) -> list[bytes]:
    """What attests each of the last two of these lines; fewer than three are all that there are."""
    parts = [_parts(line) for line in last]
    macs = [START, *(mac for _, mac in parts)]
    return [_link(keyed, before, text)[1] for before, (text, _) in zip(macs, parts, strict=False)][-2:]


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _locked(path: Path) -> int:
    head = os.open(_head_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(head, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(head)
        raise AuditError(
            f"the audit log {path} is another process's: give each sidecar a log of its own"
        ) from None
    return head


def _last_lines(path: Path) -> list[bytes]:
    """The last whole lines, three where there are; half a line at the end is cut off."""
    lines: list[bytes] = []
    for file in [path, *reversed(_older(path))]:
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(size - 3 * _LONGEST_LINE, 0))
            tail = stream.read()
        whole = tail[: tail.rfind(b"\n") + 1]
        if not lines and len(whole) != len(tail):
            os.truncate(file, size - len(tail) + len(whole))
        lines = whole.splitlines()[-3:] + lines
        if len(lines) > 2:
            break
    return lines[-3:]


def _attested(path: Path) -> bytes:
    try:
        return _head_path(path).read_bytes()
    except FileNotFoundError:
        return b""


def _head_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.head")


def _unwritable(path: Path, error: OSError) -> AuditError:
    return AuditError(f"the audit log {path} cannot be written: {error.strerror or error}")
