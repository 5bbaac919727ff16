"""Fixtures that every test may use, and which files come first."""

from pathlib import Path
from typing import Final

import pytest

pytest_plugins = ["tests.authserver.fixtures", "tests.postgres.fixtures"]

LONGEST: Final = [
    "bench/test_bench.py",
    "e2e/test_admin.py",
    "renewal/test_concurrency.py",
    "workers/test_workers.py",
    "torture/test_torture.py",
    "keys/test_rotate.py",
    "e2e/test_sigkill.py",
    "renewal/test_database_faults.py",
    "e2e/test_store_copy.py",
    "access/test_audit_log.py",
    "keys/test_kek_rotation.py",
    "adapters/test_postgres.py",
    "keys/test_kek_sources.py",
    "renewal/test_background.py",
    "access/test_reload.py",
    "core/test_stateful.py",
    "adapters/test_store_processes.py",
    "ops/test_probes.py",
    "client/test_python_package.py",
    "fuzz/test_hostile_connections.py",
    "e2e/test_start.py",
    "client/test_node.py",
    "renewal/test_consent_faults.py",
    "demo/test_keep.py",
    "e2e/test_backup.py",
    "renewal/test_database_disk.py",
    "postgres/test_pooler.py",
    "renewal/test_store_faults.py",
    "renewal/test_partition.py",
    "e2e/test_drain.py",
]
"""Begun first: a process that shares the files would otherwise be at one of them when all others are done."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))
