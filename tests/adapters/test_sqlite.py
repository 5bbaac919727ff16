# ruff: noqa: ASYNC240 nothing else runs on a test's loop while it looks at a file
"""What only a store in a file can show: opening, modes, several processes, crashes, faults."""

import asyncio
import os
import random
import signal
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pysqlite3
import pytest

from tests.adapters.processes import PATIENCE, helper, run_helpers
from tests.adapters.store_conformance import NOW, delegation_row, grant_row, lease, row_key
from tests.adapters.store_process import big_grant
from tokenvault_sidecar.adapters.clock import boot_time
from tokenvault_sidecar.adapters.sqlite import SqliteStore, StoreOpenError
from tokenvault_sidecar.adapters.sqlite_file import check_sqlite, open_file
from tokenvault_sidecar.adapters.sqlite_schema import MIGRATIONS
from tokenvault_sidecar.core.errors import StoreUnavailable
from tokenvault_sidecar.core.ports import Attempt


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vault.db"


@asynccontextmanager
async def opened(
    path: Path, *, lock_timeout: float = 5.0, boot_id: str | None = None
) -> AsyncIterator[SqliteStore]:
    store = SqliteStore.open(path, lock_timeout=lock_timeout, boot_id=boot_id)
    try:
        yield store
    finally:
        await store.close()


class TestOpening:
    async def test_what_was_written_is_there_after_reopening(self, path: Path) -> None:
        row = grant_row(attempt=Attempt(failures=1, retry_at=NOW, reason="AS_UNAVAILABLE"))
        async with opened(path) as store:
            await store.put_grant(row, replaces=None)
            await store.put_delegation(delegation_row())
        async with opened(path) as store:
            assert await store.get_grant(row.key) == row
            assert await store.get_delegation(delegation_row().key) == delegation_row()

    def test_every_commit_is_synced_and_what_is_deleted_erased(self, path: Path) -> None:
        for connection in open_file(path, lock_timeout=5.0):
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            if not connection.execute("PRAGMA query_only").fetchone()[0]:
                assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
                assert connection.execute("PRAGMA secure_delete").fetchone() == (1,)
            connection.close()

    async def test_files_are_for_their_owner_alone_whatever_the_umask(self, path: Path) -> None:
        before = os.umask(0)
        try:
            async with opened(path) as store:
                await store.put_grant(grant_row(), replaces=None)
                modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        finally:
            os.umask(before)
        assert modes == {"vault.db": 0o600, "vault.db-wal": 0o600, "vault.db-shm": 0o600}

    async def test_an_older_files_mode_is_tightened(self, path: Path) -> None:
        async with opened(path):
            pass
        path.chmod(0o664)
        async with opened(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600

    async def test_several_processes_make_one_file(self, path: Path) -> None:
        await run_helpers("opening", str(path), count=4)
        async with opened(path) as store:
            assert await store.put_grant(grant_row(), replaces=None)

    @pytest.mark.parametrize("version", [(3, 40, 1), (3, 51, 2)])
    def test_an_sqlite_that_may_corrupt_is_refused(self, version: tuple[int, ...]) -> None:
        with pytest.raises(StoreOpenError, match=r"3\.51\.3 or newer"):
            check_sqlite(version)

    def test_a_missing_folder(self, tmp_path: Path) -> None:
        path = tmp_path / "missing" / "vault.db"
        with pytest.raises(StoreOpenError, match=r"folder .*missing is not there: make it") as caught:
            SqliteStore.open(path)
        assert str(path) in str(caught.value)

    def test_a_folder_in_the_files_place(self, path: Path) -> None:
        path.mkdir()
        with pytest.raises(StoreOpenError, match=r"vault\.db: is not a file"):
            SqliteStore.open(path)

    async def test_a_read_only_file(self, path: Path) -> None:
        async with opened(path):
            pass
        path.chmod(0o400)
        with pytest.raises(StoreOpenError, match=r"vault\.db: cannot be read and written: .*0600"):
            SqliteStore.open(path)

    @pytest.mark.parametrize("content", [b"no database at all " * 100, b"SQLite format 3\0" + b"\xff" * 4080])
    def test_a_file_that_is_no_database(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        with pytest.raises(StoreOpenError, match=r"vault\.db: is damaged .*restore a backup"):
            SqliteStore.open(path)
        assert path.read_bytes() == content

    async def test_a_truncated_file(self, path: Path) -> None:
        async with opened(path) as store:
            await store.put_grant(grant_row(sealed=b"x" * 50_000), replaces=None)
        os.truncate(path, path.stat().st_size // 2)
        with pytest.raises(StoreOpenError, match=r"vault\.db: is damaged"):
            SqliteStore.open(path)

    async def test_a_file_of_a_newer_schema(self, path: Path) -> None:
        async with opened(path):
            pass
        newer = len(MIGRATIONS) + 1
        change(path, f"PRAGMA user_version = {newer}")
        with pytest.raises(
            StoreOpenError, match=rf"vault\.db: has schema version {newer}.*newer token vault"
        ):
            SqliteStore.open(path)

    def test_another_programs_database(self, path: Path) -> None:
        change(path, "CREATE TABLE theirs (id INTEGER)")
        with pytest.raises(StoreOpenError, match=r"vault\.db: is another program's"):
            SqliteStore.open(path)

    async def test_a_locked_file(self, path: Path) -> None:
        async with opened(path):
            pass
        async with helper("hold_lock", str(path)) as holder:
            assert await holder.line() == "locked"
            with pytest.raises(StoreOpenError, match=r"vault\.db: is locked by another process"):
                SqliteStore.open(path, lock_timeout=0.05)
            holder.send("enough")
            assert await holder.finish() == ["released"]
        async with opened(path):
            pass


class TestLeaseClock:
    async def test_a_lease_of_another_boot_is_over(self, path: Path) -> None:
        async with opened(path, boot_id="before") as store:
            await store.put_grant(grant_row(), replaces=None)
            assert await lease(store, grant_row())
        async with opened(path, boot_id="before") as store:
            assert not await lease(store, grant_row(), unanswered=1)
        async with opened(path, boot_id="after") as store:
            assert await store.get_grant(row_key(1)) == grant_row(attempt=Attempt(unanswered=1))
            assert await lease(store, grant_row(), unanswered=1)

    def test_the_lease_clock_is_not_the_wall_clock(self) -> None:
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        assert boot_time() == pytest.approx(uptime, abs=5.0)


class TestFaults:
    async def test_locked_by_another_process(self, path: Path) -> None:
        async with opened(path, lock_timeout=0.05) as store, helper("hold_lock", str(path)) as holder:
            await store.put_grant(grant_row(), replaces=None)
            assert await holder.line() == "locked"
            with pytest.raises(StoreUnavailable, match="another process holds its lock") as caught:
                await store.put_grant(grant_row(2), replaces=None)
            assert caught.value.retry_after
            assert str(path) not in caught.value.message
            assert await store.get_grant(row_key(1)) == grant_row()
            assert await store.get_grant(row_key(2)) is None
            holder.send("enough")
            assert await holder.finish() == ["released"]
            assert await store.put_grant(grant_row(2), replaces=None)

    async def test_a_lock_that_is_released_in_time_is_waited_for(self, path: Path) -> None:
        async with opened(path, lock_timeout=PATIENCE) as store, helper("hold_lock", str(path)) as holder:
            assert await holder.line() == "locked"
            write = asyncio.create_task(store.put_grant(grant_row(), replaces=None))
            await asyncio.sleep(0)
            holder.send("enough")
            await holder.finish()
            assert await write

    async def test_a_disk_that_takes_no_more(self, path: Path) -> None:
        ((failed, written),) = await run_helpers("filling", str(path), count=1)
        assert failed.startswith("failed the store cannot be used, its disk")
        assert path.name not in failed
        assert int(written.removeprefix("written ")) > 0

    async def test_damage_found_later(self, path: Path) -> None:
        async with opened(path) as store:
            for number in range(50):
                await store.put_grant(grant_row(number, sealed=b"x" * 2000), replaces=None)
        with path.open("r+b") as file:
            file.seek(8 * 4096)
            file.write(b"\xff" * (path.stat().st_size - 8 * 4096))
        async with opened(path) as store:
            reads = (store.get_grant(row_key(number)) for number in range(50))
            outcomes = await asyncio.gather(*reads, return_exceptions=True)
        damaged = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert damaged
        assert all(isinstance(e, StoreUnavailable) and "its file is damaged" in e.message for e in damaged)

    async def test_a_closed_store(self, path: Path) -> None:
        store = SqliteStore.open(path)
        await store.close()
        await store.close()
        with pytest.raises(StoreUnavailable):
            await store.get_grant(row_key(1))
        with pytest.raises(StoreUnavailable, match="closed"):
            await store.put_grant(grant_row(), replaces=None)

    async def test_closing_commits_what_is_queued(self, path: Path) -> None:
        store = SqliteStore.open(path)
        writes = [asyncio.create_task(store.put_grant(grant_row(n), replaces=None)) for n in range(20)]
        await asyncio.sleep(0)
        await store.close()
        assert await asyncio.gather(*writes) == [True] * 20
        assert {file.name for file in path.parent.iterdir()} == {"vault.db"}

    async def test_a_write_whose_caller_is_cancelled_still_happens(self, path: Path) -> None:
        async with opened(path, lock_timeout=PATIENCE) as store, helper("hold_lock", str(path)) as holder:
            complaints: list[object] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
            assert await holder.line() == "locked"
            write = asyncio.create_task(store.put_grant(grant_row(), replaces=None))
            await asyncio.sleep(0)
            write.cancel()
            with pytest.raises(asyncio.CancelledError):
                await write
            holder.send("enough")
            await holder.finish()
            assert not await store.put_grant(grant_row(), replaces=None)  # queued behind it
            assert await store.get_grant(row_key(1)) == grant_row()
        assert not complaints


class TestErasure:
    async def test_deleted_bytes_are_gone_from_the_file(self, path: Path) -> None:
        canary = os.urandom(24)
        doomed, kept = grant_row(1, sealed=canary * 50), grant_row(2)
        async with opened(path) as store:
            for row in (doomed, kept):
                await store.put_grant(row, replaces=None)
        assert canary in path.read_bytes()
        async with opened(path) as store:
            assert await store.forget_context(doomed.key, version=doomed.version)
        assert canary not in path.read_bytes()
        assert kept.sealed in path.read_bytes()
        assert {file.name for file in path.parent.iterdir()} == {"vault.db"}

    async def test_replaced_bytes_are_gone_from_the_file(self, path: Path) -> None:
        canary = os.urandom(24)
        async with opened(path) as store:
            await store.put_grant(grant_row(sealed=canary * 300), replaces=None)
            await store.put_grant(grant_row(version="v2"), replaces="v1")
        assert canary not in path.read_bytes()


async def test_what_was_acknowledged_survives_fifty_kills(path: Path) -> None:
    acknowledged: list[bytes] = []
    async with helper("breed", str(path)) as breeder:
        for life in range(50):
            breeder.send(f"life {life}")
            child = int((await breeder.line()).removeprefix("child "))
            doomed_after = len(acknowledged) + random.randint(1, 60)
            while (line := await breeder.line()) != "gone":
                acknowledged.append(bytes.fromhex(line.removeprefix("ack ")))
                if len(acknowledged) == doomed_after:
                    await asyncio.sleep(random.uniform(0, 0.004))
                    os.kill(child, signal.SIGKILL)
            assert len(acknowledged) >= doomed_after
            async with opened(path) as store:
                for key in acknowledged:
                    assert await store.get_grant(key) == big_grant(key)
    connection = pysqlite3.connect(str(path))
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def change(path: Path, sql: str) -> None:
    connection = pysqlite3.connect(str(path), isolation_level=None)
    connection.execute(sql)
    connection.close()
