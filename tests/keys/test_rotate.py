"""`tokenvault keys list` and `rotate`, beside sidecars that serve, on each kind of store."""

import asyncio
import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.bench import vault
from tests.keys.rotating import rotate_under_load
from tests.postgres.fixtures import PutStore
from tests.postgres.server import on_store
from tests.running import COMMAND
from tokenvault_sidecar.config import load_config

GRANTS = 2000
FEW = 20


@pytest.fixture
async def config(tmp_path: Path) -> Path:
    """On a file."""
    made = vault.configure(tmp_path / "vault")
    await vault.fill(load_config(made), FEW)
    return made


@pytest.fixture
async def each(tmp_path: Path, put_store: PutStore) -> Path:
    """On a file, and on a database."""
    made = vault.configure(tmp_path / "vault")
    put_store(made)
    await vault.fill(load_config(made), FEW)
    return made


def keys(*arguments: str, config: Path) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "keys", *arguments, "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


def listed(config: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(keys("list", "--json", config=config).stdout)
    return found


async def test_under_load_no_call_fails_and_what_was_killed_goes_on(each: Path) -> None:
    """`make rotation` does the same with 100,000 grants and 500 calls a second."""
    await vault.fill(load_config(each), GRANTS - FEW, first=FEW)
    rotated, load = await rotate_under_load(each, consumers=GRANTS, rate=100.0, kills=2)
    assert load.failed == []
    assert load.served > 100
    assert (rotated.kills, rotated.runs) == (2, 3)
    assert rotated.said.startswith("an earlier rotation is not finished: going on with it")
    index, old, new = await asyncio.to_thread(listed, each)
    assert index["purpose"] == "index"
    assert (old["records"], old["active"]) == (0, False)
    assert new["active"] is True
    assert new["records"] >= GRANTS  # type: ignore[operator]  # a number
    assert new["seals"]  # what is counted together is lost by a kill


def test_keys_are_listed_by_id_alone(config: Path) -> None:
    table = keys("list", config=config)
    assert table.returncode == 0
    header, index, data = table.stdout.splitlines()
    assert header.split() == ["id", "purpose", "age", "active", "kek", "records", "seals"]
    assert re.fullmatch(r"[0-9a-f]{8}  index +\d+[smhd]  yes +[0-9a-f]{16} +", index)
    assert re.fullmatch(rf"[0-9a-f]{{8}}  data +\d+[smhd]  yes +[0-9a-f]{{16}} +{FEW} +\d+", data)
    found = listed(config)
    assert [key["id"] for key in found] == [index.split()[0], data.split()[0]]
    assert set(found[0]) == {
        "id", "purpose", "created_at", "age_seconds", "active", "kek", "records", "seals",
    }  # fmt: skip


def test_an_old_key_is_deleted_by_a_later_rotation(each: Path) -> None:
    said = keys("rotate", config=each)
    assert said.returncode == 0, said.stderr
    assert "the old key stays for an hour" in said.stdout
    first = listed(each)[1]["id"]
    on_store(each, "UPDATE keys SET created_at = created_at - 7200")
    # so long after the last one, what it left over goes before anything else
    said = keys("rotate", config=each)
    assert said.returncode == 0, said.stderr
    assert f"data key {first} was deleted" in said.stdout
    assert [key["id"] for key in listed(each) if key["purpose"] == "data" and key["active"]] != [first]


def test_a_record_that_cannot_be_opened_holds_up_no_later_rotation(each: Path) -> None:
    on_store(
        each,
        "UPDATE grants SET sealed = substr(sealed, 1, 30)"
        " WHERE key = (SELECT key FROM grants ORDER BY key LIMIT 1)",
    )
    for _ in range(2):
        said = keys("rotate", config=each)
        assert said.returncode == 2
        assert "1 records cannot be opened and stay as they are" in said.stderr
    assert [key["records"] for key in listed(each) if key["purpose"] == "data"] == [1, 0, FEW - 1]


@pytest.mark.parametrize("command", ["list", "rotate"])
def test_where_no_store_is_none_is_made(tmp_path: Path, command: str, put_store: PutStore) -> None:
    config = vault.configure(tmp_path / "vault")
    put_store(config)
    said = keys(command, config=config)
    assert said.returncode == 2
    assert "the first start of a sidecar makes it" in said.stderr
    store = load_config(config).store
    if store.url is None:
        assert not store.file.exists()
    else:
        assert on_store(config, "SELECT to_regclass('keys')") == [(None,)]


@pytest.mark.parametrize("command", ["list", "rotate"])
def test_another_kek_opens_nothing(config: Path, command: str) -> None:
    (config.parent / "kek").write_text("A" * 43 + "=\n")
    said = keys(command, config=config)
    assert said.returncode == 2
    assert "is wrapped by KEK" in said.stderr
    assert "A" * 43 not in said.stdout + said.stderr
