"""The bench itself, with a small vault and short rounds: no figure is judged here."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.__main__ import OPTIONS, WORKERS
from tests.bench.load import percentile


def test_it_measures_both_sides_and_writes_what_it_found(tmp_path: Path) -> None:
    output = tmp_path / "build" / "bench.json"
    options = ["--grants", "50", "--rounds", "2", "--seconds", "0.2", "--output", str(output)]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.bench", *options],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    assert found["conditions"]["grants"] == 50
    assert set(found["comparisons"]) == {"get_token", "get_token_flat_out", *OPTIONS, *WORKERS}
    for comparison in found["comparisons"].values():
        assert len(comparison["ratios"]) == 2
        assert comparison["ratio"] > 0
        ours, theirs = comparison["subject"], comparison["base"]
        assert ours["answer_bytes"] == theirs["answer_bytes"]
        for side in (ours, theirs):
            assert 0 < side["p50_us"] <= side["p99_us"]
            assert side["cpu_us"] > 0
            assert side["load_cpu_us"] > 0
            assert f"{side['cpu_us']:.0f} µs" in done.stdout
    renewals = found["renewals"]
    latency, rate = renewals["latency"], renewals["throughput"]
    assert latency["renewed"] > 0
    assert f"while {latency['renewals_per_second']:.0f} grants a second are renewed" in done.stdout
    assert 0 < latency["p50_us"] <= latency["p99_us"]
    assert rate["ratio"] > 0
    assert f"the core {rate['per_second']:,.0f}/s" in done.stdout


def test_a_start_is_measured_beside_the_import() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.bench.start", "--grants", "50", "--rounds", "1"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    found = re.search(r"50 grants: ready in (\S+) s, the import alone (\S+) s\n", done.stdout)
    assert found, done.stderr
    beyond = re.search(r"a start beyond the import: (\S+) s; memory (\d+) MB\n", done.stdout)
    assert beyond
    assert float(beyond[1]) == pytest.approx(float(found[1]) - float(found[2]), abs=0.011)
    assert int(beyond[2]) > 20
    assert [line.partition(":")[0].split()[0] for line in done.stdout.splitlines()[2:]] == [
        "stats", "grants", "backup",
    ]  # fmt: skip


def test_many_grants_are_measured_against_few() -> None:
    options = ["--grants", "60", "--few", "20", "--rounds", "1", "--seconds", "0.2"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.bench.scale", *options],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    found = re.findall(
        r"^(\w+): ([\w ]+): ([\d.]+) (\w+) against ([\d.]+) \w+: [\d.]+, aim 1.1 (?:met|missed)$",
        done.stdout,
        re.M,
    )
    figures = ("CPU a call", "µs"), ("p50", "ms"), ("p99", "ms"), ("memory", "MB"), ("start", "s")
    assert [(store, what, unit) for store, what, _, unit, _ in found] == [
        (store, *figure) for store in ("SQLite", "PostgreSQL") for figure in figures
    ], done.stdout + done.stderr
    stored = re.findall(r"^(\w+): ([\d,]+) renewals stored a second", done.stdout, re.M)
    assert [store for store, _ in stored] == ["PostgreSQL", "SQLite"]
    assert all(float(figure) > 0 for _, _, many, _, few in found for figure in (many, few))


def test_percentiles() -> None:
    values = [float(n) for n in range(100)]
    assert percentile(values, 50) == 50.0
    assert percentile(values, 99) == 99.0
    assert percentile([7.0], 99) == 7.0
