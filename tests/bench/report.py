"""What was measured, as tables and as JSON."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from tests.bench.measure import Comparison, Figures
from tests.bench.renewals import Found


def table(title: str, comparison: Comparison) -> str:
    """For people."""
    subject, base = comparison.subject, comparison.base
    low, high = min(comparison.ratios), max(comparison.ratios)
    verdict = "met" if comparison.ratio <= comparison.aim else "missed"
    return "\n".join(
        [
            title,
            f"  {'':<10}{'server CPU':>12}{'load CPU':>12}{'throughput':>14}"
            f"{'p50':>11}{'p99':>11}{'answer':>10}",
            _row(subject),
            _row(base),
            f"  ratio of CPU {comparison.ratio:.2f}, aim {comparison.aim:.2f} {verdict}; "
            f"median of {len(comparison.ratios)} pairs of rounds, {low:.2f} to {high:.2f}",
            f"  calls per CPU-second {1e6 / subject.cpu_us:,.0f} to {1e6 / base.cpu_us:,.0f}, "
            f"with the load's own {_of_all(subject):,.0f} to {_of_all(base):,.0f}",
        ]
    )


def _of_all(figures: Figures) -> float:
    return 1e6 / (figures.cpu_us + figures.load_cpu_us)


def _row(figures: Figures) -> str:
    return (
        f"  {figures.name:<10}{figures.cpu_us:>9.0f} µs{figures.load_cpu_us:>9.0f} µs"
        f"{figures.calls_per_second:>12,.0f}/s"
        f"{figures.p50_us / 1000:>8.2f} ms{figures.p99_us / 1000:>8.2f} ms{figures.answer_bytes:>8} B"
    )


def write(
    file: Path, comparisons: Mapping[str, Comparison], renewals: Found | None, conditions: Mapping[str, int]
) -> None:
    """For machines: the comparisons by name, and under what conditions they were made."""
    document = {
        "comparisons": {name: asdict(comparison) for name, comparison in comparisons.items()},
        "renewals": asdict(renewals) if renewals else None,
        "conditions": dict(conditions),
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "grpcio": version("grpcio"),
            "uvloop": version("uvloop"),
        },
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=2) + "\n")
