"""The audit log: whole or found out, in every position."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tokenvault_sidecar.adapters.audit import BROKEN_END, UNWRITTEN, AuditError, AuditLog, verify

KEY = b"k" * 32


def written(path: Path, lines: int = 12, **settings: int) -> Path:
    log = AuditLog(path, KEY, **settings)  # type: ignore[arg-type]  # max_bytes alone
    for number in range(lines):
        log.write({"n": number, "caller": "bot", "outcome": "OK"})
    log.close()
    return path


def test_a_whole_log_verifies(tmp_path: Path) -> None:
    path = written(tmp_path / "audit.jsonl")
    assert verify(path, KEY) == 12
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text().splitlines()[3])["n"] == 3


def test_it_goes_on_across_restarts(tmp_path: Path) -> None:
    for _ in range(5):
        written(tmp_path / "audit.jsonl", 3)
    assert verify(tmp_path / "audit.jsonl", KEY) == 15


def test_it_goes_on_across_rotation_and_restarts(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for _ in range(4):
        written(path, 10, max_bytes=500)
    assert len(list(tmp_path.glob("audit.jsonl.*"))) > 5
    assert verify(path, KEY) == 40


def test_it_goes_on_where_somebody_else_rotates(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, KEY)
    log.write({"n": 1})
    path.rename(tmp_path / "audit.jsonl.1")
    log.reopen()
    log.write({"n": 2})
    log.reopen()
    log.write({"n": 3})
    log.close()
    assert len(path.read_text().splitlines()) == 2
    assert verify(path, KEY) == 3


def shifted(path: Path) -> None:
    """As logrotate does it by default: the newest of them is .1."""
    for number in (3, 2, 1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.rename(path.with_name(f"{path.name}.{number + 1}"))
    path.rename(path.with_name(f"{path.name}.1"))


def dated(path: Path) -> None:
    """As logrotate does it with `dateext`."""
    path.rename(path.with_name(f"{path.name}-2026112{len(list(path.parent.iterdir()))}"))


@pytest.mark.parametrize("rotate", [shifted, dated])
@pytest.mark.parametrize("restarts", [False, True])
def test_whatever_others_call_the_older_files(
    tmp_path: Path, rotate: Callable[[Path], None], restarts: bool
) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, KEY)
    for number in range(4):
        log.write({"n": number})
        rotate(path)
        if restarts:
            log.close()
            log = AuditLog(path, KEY)
        else:
            log.reopen()
    assert verify(path, KEY) == 4
    log.write({"n": 4})
    log.close()
    assert verify(path, KEY) == 5
    assert all("event" not in line for file in tmp_path.iterdir() for line in file.read_text().splitlines())
    older = [file for file in tmp_path.iterdir() if file not in (path, tmp_path / "audit.jsonl.head")]
    assert len(older) == 4
    for file in older:
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(AuditError):
            verify(path, KEY)
        file.write_bytes(content)


def test_it_is_verified_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, KEY, max_bytes=100_000)
    written_all = threading.Event()

    def write() -> None:
        for number in range(1, 20_000):
            log.write({"n": number})
        written_all.set()

    log.write({"n": 0})
    writer = threading.Thread(target=write)
    writer.start()
    counts = [verify(path, KEY)]
    while not written_all.is_set():
        counts.append(verify(path, KEY))
    writer.join()
    log.close()
    assert counts == sorted(counts)
    assert verify(path, KEY) == 20_000


def test_killed_before_it_attested_the_line_it_is_still_whole(tmp_path: Path) -> None:
    path = written(tmp_path / "audit.jsonl", 2)
    head = (tmp_path / "audit.jsonl.head").read_bytes()
    written(path, 1)
    (tmp_path / "audit.jsonl.head").write_bytes(head)
    assert verify(path, KEY) == 3
    written(path, 1)
    assert verify(path, KEY) == 4
    assert BROKEN_END["event"] not in path.read_text()


def test_tampering_is_found_in_every_position(tmp_path: Path) -> None:
    path = written(tmp_path / "audit.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    for i in range(len(lines)):
        removed = lines[:i] + lines[i + 1 :]
        doubled = [*lines[: i + 1], *lines[i:]]
        cut = lines[:i]
        changed = [*lines[:i], lines[i].replace('"bot"', '"bat"'), *lines[i + 1 :]]
        moved = lines[:i] + lines[i + 1 : i + 2] + lines[i : i + 1] + lines[i + 2 :]
        for tampered in (removed, doubled, cut, changed, *([moved] if i + 1 < len(lines) else [])):
            path.write_text("".join(tampered))
            with pytest.raises(AuditError):
                verify(path, KEY)
    path.write_text("".join(lines))
    assert verify(path, KEY) == 12


def test_every_changed_byte_is_found(tmp_path: Path) -> None:
    path = written(tmp_path / "audit.jsonl", 3)
    content = path.read_bytes()
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :])
        with pytest.raises(AuditError):
            verify(path, KEY)


def test_without_the_key_nothing_verifies_and_nothing_can_be_mended(tmp_path: Path) -> None:
    path = written(tmp_path / "audit.jsonl")
    with pytest.raises(AuditError):
        verify(path, b"x" * 32)


def test_a_removed_file_is_found(tmp_path: Path) -> None:
    path = written(tmp_path / "audit.jsonl", 30, max_bytes=500)
    assert verify(path, KEY) == 30
    for name in ("audit.jsonl.1", "audit.jsonl.3", "audit.jsonl", "audit.jsonl.head"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        with pytest.raises((AuditError, FileNotFoundError)):
            verify(path, KEY)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "audit.jsonl.99").write_bytes((tmp_path / "audit.jsonl.2").read_bytes())
    with pytest.raises(AuditError):
        verify(path, KEY)


def test_a_log_that_is_not_there_does_not_verify(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        verify(tmp_path / "audit.jsonl", KEY)


def test_lines_cut_off_before_a_restart_are_noted_and_found(tmp_path: Path) -> None:
    path = written(tmp_path / "audit.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-2]))
    written(path, 1)
    assert "does not end where it was attested" in path.read_text()


def test_half_a_line_is_cut_off_at_the_next_start(tmp_path: Path) -> None:
    path = written(tmp_path / "audit.jsonl", 3)
    with path.open("a") as stream:
        stream.write('{"n":3,"call')
    assert verify(path, KEY) == 3
    written(path, 2)
    assert verify(path, KEY) == 5


def test_a_second_process_needs_a_log_of_its_own(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl", KEY)
    with pytest.raises(AuditError, match="another process"):
        AuditLog(tmp_path / "audit.jsonl", KEY)
    (tmp_path / "audit.jsonl").rename(tmp_path / "audit.jsonl.1")  # and it has not been told yet
    with pytest.raises(AuditError, match="another process"):
        AuditLog(tmp_path / "audit.jsonl", KEY)
    log.close()
    AuditLog(tmp_path / "audit.jsonl", KEY).close()


def test_where_it_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="cannot be written"):
        AuditLog(tmp_path / "missing" / "audit.jsonl", KEY)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from tokenvault_sidecar.adapters.audit import AuditLog
from tokenvault_sidecar.core.errors import StoreUnavailable
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = AuditLog(Path(sys.argv[1]), b"k" * 32, fail_closed=sys.argv[2] == "closed")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
failed = 0
for n in range(20):
    try:
        log.write({"n": n})
    except StoreUnavailable:
        failed += 1
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.write({"n": "after"})
log.write({"n": "and on"})
print(failed)
"""


@pytest.mark.parametrize("mode", ["closed", "open"])
def test_a_full_disk_fails_closed_or_counts_and_leaves_the_chain_whole(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "audit.jsonl"
    out = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), mode], capture_output=True, text=True, check=True
    )
    noted = [line for line in map(json.loads, path.read_text().splitlines()) if "event" in line]
    (missed,) = [line["lines"] for line in noted if line["event"] == UNWRITTEN]
    assert missed > 0
    assert int(out.stdout.split()[-1]) == (missed if mode == "closed" else 0)
    assert verify(path, KEY) == 22 - missed + len(noted)
    assert out.stdout.count("audit_unwritable") == out.stdout.count("audit_written_again") == 1


def test_a_killed_process_loses_no_line(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    script = (
        "import sys; from pathlib import Path\n"
        "from tokenvault_sidecar.adapters.audit import AuditLog\n"
        f"log = AuditLog(Path({str(path)!r}), b'k' * 32)\n"
        "n = 0\n"
        "while True:\n"
        "    log.write({'n': n}); print(n, flush=True); n += 1\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(200):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        told = 199 + len(process.stdout.read().splitlines())
    AuditLog(path, KEY).close()
    assert verify(path, KEY) >= told
