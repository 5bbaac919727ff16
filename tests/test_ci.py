"""`.ci/run` names its steps, stops at the first failure, and says what did not run."""

import os
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parent.parent / ".ci" / "run"


def ci(tmp_path: Path, *, fails: str, chromium: str = "/bin/sh") -> "subprocess.CompletedProcess[str]":
    """Run it with a `make` that does nothing but fail at one step."""
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\necho "did $1"\ntest "$1" != "{fails}"\n')
    make.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "CI": "true"}
    environment["CHROMIUM"] = chromium  # a file that is there, or not
    return subprocess.run([RUN], env=environment, capture_output=True, text=True, timeout=60)


def test_all_steps_in_order_and_the_tests_closing_line_last(tmp_path: Path) -> None:
    done = ci(tmp_path, fails="nothing")
    assert done.returncode == 0, done.stderr
    steps = ["install", "lint", "gen-check", "test", "test-clients", "demo", "image-check", "test-browser"]
    assert [line for line in done.stdout.splitlines() if line.startswith("=== make")] == [
        f"=== make {step}" for step in steps
    ]
    assert done.stdout.endswith(
        "=== all passed: install lint gen-check test test-clients demo image-check test-browser"
        "; did not run, for the minutes they take the first time: test-go test-java test-from-proto\n"
        "did test\n"
    )


def test_without_a_browser_it_says_what_did_not_run(tmp_path: Path) -> None:
    done = ci(tmp_path, fails="nothing", chromium="/nowhere/chromium")
    assert done.returncode == 0
    assert "=== make test-browser" not in done.stdout
    assert "; did not run, for want of /nowhere/chromium: test-browser\n" in done.stdout


@pytest.mark.parametrize(
    ("step", "rest"),
    [
        ("lint", "gen-check test test-clients demo image-check test-browser"),
        ("test", "test-clients demo image-check test-browser"),
        ("test-browser", "(it was the last)"),
    ],
)
def test_a_failure_ends_it(tmp_path: Path, step: str, rest: str) -> None:
    done = ci(tmp_path, fails=step)
    assert done.returncode == 1
    assert done.stdout.endswith(f"=== make {step}\ndid {step}\n")
    assert done.stderr == f"=== FAILED: make {step}; did not run: {rest}\n"
