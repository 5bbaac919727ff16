# ruff: noqa: ASYNC220, ASYNC240, ASYNC251 nothing else runs on these tests' loop
"""Copies of a store: what is in them, what is refused, and what a kill leaves."""

import asyncio
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import pysqlite3
import pytest

from tests.adapters.store_conformance import (
    NOW,
    delegation_row,
    grant_row,
    lease,
    outcome_row,
    revocation_row,
    wrapped_key,
)
from tokenvault_sidecar.adapters import sqlite_backup, sqlite_file
from tokenvault_sidecar.adapters.sqlite import SqliteStore, StoreOpenError
from tokenvault_sidecar.adapters.sqlite_backup import BackupError, back_up, restore
from tokenvault_sidecar.adapters.sqlite_schema import MIGRATIONS
from tokenvault_sidecar.core.ports import Attempt, GrantRow, WrappedKey


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore.open(path)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vault.db"


@pytest.fixture
async def backup(path: Path, tmp_path: Path) -> Path:
    """Of a store with a leased grant and one that is not, a delegation, a revocation and a key."""
    async with opened(path) as store:
        await store.add_keys([wrapped_key("k1")], first=True)
        await store.put_grant(grant_row(1), replaces=None)
        await store.put_grant(grant_row(2, attempt=Attempt(unanswered=2, failures=3)), replaces=None)
        await store.put_grant(grant_row(3), replaces=None)
        assert await lease(store, grant_row(3))
        await store.put_delegation(delegation_row(), outcome_row())
        await store.add_revocations([revocation_row()])
        assert back_up(path, tmp_path / "backup.db") == 3
    return tmp_path / "backup.db"


def any_keys(keys: Sequence[WrappedKey]) -> None:
    assert [key.id for key in keys] == ["k1"]


def ambiguous(row: GrantRow, unanswered: int = 1) -> GrantRow:
    return replace(row, attempt=replace(row.attempt, unanswered=unanswered))


async def test_a_backup_is_one_private_file_with_all_that_was_committed(backup: Path, path: Path) -> None:
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert {file.name for file in path.parent.iterdir()} == {"vault.db", "backup.db"}
    with closing(pysqlite3.connect(f"{backup.as_uri()}?mode=ro", uri=True)) as copy:
        assert copy.execute("SELECT count(*) FROM grants").fetchall() == [(3,)]
        assert copy.execute("SELECT count(*) FROM delegations").fetchall() == [(1,)]


async def test_a_backup_overwrites_nothing(backup: Path, path: Path) -> None:
    before = backup.read_bytes()
    with pytest.raises(BackupError, match="is there already"):
        back_up(path, backup)
    dangling = path.parent / "dangling"
    dangling.symlink_to(path.parent / "nowhere")
    with pytest.raises(BackupError, match="is there already"):
        back_up(path, dangling)
    assert backup.read_bytes() == before


def test_a_backup_of_nothing_leaves_nothing(path: Path) -> None:
    with pytest.raises(BackupError, match="there is no store yet"):
        back_up(path, path.parent / "backup.db")
    path.write_bytes(b"no database " * 100)
    with pytest.raises(BackupError, match="is damaged"):
        back_up(path, path.parent / "backup.db")
    with pytest.raises(BackupError, match="cannot be made"):
        back_up(path, path.parent / "nowhere" / "backup.db")
    assert list(path.parent.iterdir()) == [path]


async def test_restored_grants_are_ambiguous_and_pending_delegations_gone(backup: Path, path: Path) -> None:
    async with opened(path) as store:  # what came after the backup is gone, too
        await store.put_grant(grant_row(1, version="v2"), replaces="v1")
        await store.put_grant(grant_row(4), replaces=None)
    assert restore(backup, path, any_keys) == 3
    async with opened(path) as store:
        assert await store.get_grant(grant_row(1).key) == ambiguous(grant_row(1))
        attempt = Attempt(unanswered=2, failures=3)
        assert await store.get_grant(grant_row(2).key) == grant_row(2, attempt=attempt)
        assert await store.get_grant(grant_row(3).key) == ambiguous(grant_row(3))  # its lease is over
        assert await store.get_grant(grant_row(4).key) is None
        assert not await store.due_grants(NOW * 2, brand="acme", limit=10)
        assert await store.get_delegation(delegation_row().key) is None
        assert await store.get_outcome(outcome_row().key) is None
        assert await store.due_revocations(NOW, limit=10) == [revocation_row()]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {file.name for file in path.parent.iterdir()} == {"vault.db", "backup.db"}


async def test_restoring_where_no_store_is(backup: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    path = tmp_path / "new" / "vault.db"
    assert restore(backup, path, any_keys) == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    async with opened(path) as store:
        assert await store.get_grant(grant_row(1).key) == ambiguous(grant_row(1))


async def test_a_store_that_is_open_is_not_replaced(backup: Path, path: Path) -> None:
    async with opened(path) as store:
        await store.put_grant(grant_row(4), replaces=None)
        with pytest.raises(BackupError, match="has it open: stop the sidecar"):
            restore(backup, path, any_keys)
        assert await store.get_grant(grant_row(4).key) == grant_row(4)
        await store.put_grant(grant_row(5), replaces=None)  # it goes on


async def test_nobody_opens_a_store_that_is_being_replaced(backup: Path, path: Path) -> None:
    def check(keys: Sequence[WrappedKey]) -> None:
        with pytest.raises(StoreOpenError, match="is locked by another process"):
            SqliteStore.open(path, lock_timeout=0.1)

    assert restore(backup, path, check) == 3


async def test_what_a_killed_process_left_is_no_obstacle(backup: Path, path: Path) -> None:
    """Its write-ahead log is there still, and belongs to the store that goes."""
    store = SqliteStore.open(path)
    await store.put_grant(grant_row(4), replaces=None)
    left = {name: path.with_name(name).read_bytes() for name in ("vault.db", "vault.db-wal")}
    await store.close()
    for name, content in left.items():
        path.with_name(name).write_bytes(content)
    restore(backup, path, any_keys)
    async with opened(path) as restored:
        assert await restored.get_grant(grant_row(4).key) is None
        assert await restored.get_grant(grant_row(1).key) == ambiguous(grant_row(1))


class Refused(Exception):
    pass


def refusing(keys: Sequence[WrappedKey]) -> None:
    raise Refused


async def test_what_is_no_good_backup_changes_nothing(backup: Path, path: Path) -> None:
    bad = path.parent / "bad.db"
    whole = backup.read_bytes()

    async def unchanged() -> None:
        async with opened(path) as store:
            assert await store.get_grant(grant_row(3).key) == ambiguous(
                grant_row(3, attempt=Attempt(leased=True))
            )
            assert await store.get_delegation(delegation_row().key) == delegation_row()
        assert {file.name for file in path.parent.iterdir()} <= {"vault.db", "backup.db", "bad.db"}

    with pytest.raises(Refused):
        restore(backup, path, refusing)
    await unchanged()
    with pytest.raises(BackupError, match="no such file"):
        restore(bad, path, any_keys)
    with pytest.raises(BackupError, match="is the store itself"):
        restore(path, path, any_keys)
    for content, what in (
        (b"", "no token vault's database"),
        (b"text " * 1000, "is damaged"),
        (whole[: len(whole) // 2], "is damaged"),
        (whole[:5000] + b"\xff" * 8000 + whole[13000:], "is damaged"),
    ):
        bad.write_bytes(content)
        with pytest.raises(BackupError, match=what):
            restore(bad, path, any_keys)
        await unchanged()
    bad.write_bytes(whole)
    with closing(pysqlite3.connect(str(bad))) as newer:
        newer.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(BackupError, match="run a newer token vault"):
        restore(bad, path, any_keys)
    bad.unlink()
    with closing(pysqlite3.connect(str(bad))) as others:
        others.execute("CREATE TABLE t (a)")
    with pytest.raises(BackupError, match="another program's"):
        restore(bad, path, any_keys)
    with pytest.raises(BackupError, match="another program's"):
        restore(backup, bad, any_keys)
    await unchanged()


async def test_a_failed_restore_makes_no_store(backup: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused):
        restore(backup, tmp_path / "new.db", refusing)
    assert not (tmp_path / "new.db").exists()
    with pytest.raises(BackupError, match="is not there"):
        restore(backup, tmp_path / "nowhere" / "new.db", any_keys)


async def test_a_damaged_store_is_moved_away_first(backup: Path, path: Path) -> None:
    path.write_bytes(b"damage " * 1000)
    with pytest.raises(BackupError, match="move it away"):
        restore(backup, path, any_keys)
    assert path.read_bytes() == b"damage " * 1000
    path.rename(path.with_name("damaged.db"))
    assert restore(backup, path, any_keys) == 3


async def test_a_store_that_another_process_makes_meanwhile_is_let_be(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(path):
        back_up(path, tmp_path / "backup.db")
    new = tmp_path / "new.db"
    started: list[SqliteStore] = []

    def prepare(file: Path) -> None:
        if not started:
            started.append(SqliteStore.open(file))
        sqlite_file.prepare(file)

    monkeypatch.setattr(sqlite_backup, "prepare", prepare)
    with pytest.raises(BackupError, match="a process has it open"):
        restore(tmp_path / "backup.db", new, lambda keys: None)
    assert new.is_file()
    await started[0].close()


async def test_a_kill_leaves_the_old_store_or_the_restored_one(path: Path, tmp_path: Path) -> None:
    async with opened(path) as store:
        await store.add_keys([wrapped_key("k1")], first=True)
        rows = [grant_row(number, sealed=os.urandom(8000)) for number in range(400)]
        await asyncio.gather(*(store.put_grant(row, replaces=None) for row in rows))
    back_up(path, tmp_path / "backup.db")
    code = (
        "import sys; from pathlib import Path\n"
        "from tokenvault_sidecar.adapters.sqlite_backup import restore\n"
        "print('ready', flush=True); restore(Path(sys.argv[1]), Path(sys.argv[2]), lambda keys: None)"
    )
    killed = 0
    for number in range(5):
        async with opened(path) as store:
            row = await store.get_grant(grant_row(0).key)
            assert row is not None
            await store.put_grant(replace(row, attempt=Attempt()), replaces="v1")
        restoring = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "backup.db"), str(path)], stdout=subprocess.PIPE
        )
        assert restoring.stdout is not None
        restoring.stdout.readline()
        time.sleep(
            number * random.uniform(0, 0.03)
        )  # the first at once: however fast the machine, it is killed
        restoring.kill()
        restoring.communicate()
        killed += restoring.returncode == -signal.SIGKILL
        with closing(pysqlite3.connect(str(path))) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            found = connection.execute("SELECT unanswered, count(*) FROM grants GROUP BY 1").fetchall()
            assert found in ([(0, 400)], [(0, 1), (1, 399)], [(1, 400)])
    assert killed
    restore(tmp_path / "backup.db", path, lambda keys: None)
    assert {file.name for file in tmp_path.iterdir()} == {"vault.db", "backup.db"}
