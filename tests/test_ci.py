"""`.ci/run` names its steps, stops at the first failure, and says what did not run."""

import os
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parent.parent / ".ci" / "run"


OPTIONAL = {"CHROMIUM": "test-browser", "GO": "test-go", "MVN": "test-java", "CARGO": "test-from-proto"}
"""What the script's programs may be named by, and the steps that want them."""

STEPS = ["install", "lint", "gen-check", "test", "test-clients", "demo", "image-check", *OPTIONAL.values()]


def ci(tmp_path: Path, *, fails: str, missing: str = "") -> "subprocess.CompletedProcess[str]":
    """Run it with a `make` that does nothing but fail at one step, and with one program missing."""
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\necho "did $1"\ntest "$1" != "{fails}"\n')
    make.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "CI": "true"}
    environment |= {name: "/nowhere/it" if name == missing else "/bin/sh" for name in OPTIONAL}
    return subprocess.run([RUN], env=environment, capture_output=True, text=True, timeout=60)


def test_all_steps_in_order_and_the_tests_closing_line_last(tmp_path: Path) -> None:
    done = ci(tmp_path, fails="nothing")
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("=== make")]
    assert said == [f"=== make {step}" for step in STEPS]
    assert done.stdout.endswith(f"=== all passed: {' '.join(STEPS)}\ndid test\n")


@pytest.mark.parametrize(("program", "step"), OPTIONAL.items())
def test_what_wants_a_program_that_is_not_there_is_named(program: str, step: str, tmp_path: Path) -> None:
    done = ci(tmp_path, fails="nothing", missing=program)
    assert done.returncode == 0
    assert f"=== make {step}\n" not in done.stdout
    assert f"; did not run, for want of /nowhere/it: {step}\n" in done.stdout


def test_what_there_is_no_time_for_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAST_START", "-1")
    done = ci(tmp_path, fails="nothing")
    assert done.returncode == 0
    always = [step for step in STEPS if step not in OPTIONAL.values()]
    unrun = "".join(f"; did not run, for want of time: {step}" for step in OPTIONAL.values())
    assert done.stdout.endswith(f"=== all passed: {' '.join(always)}{unrun}\ndid test\n")


@pytest.mark.parametrize("step", ["lint", "test", "test-from-proto"])
def test_a_failure_ends_it(tmp_path: Path, step: str) -> None:
    rest = " ".join(STEPS[STEPS.index(step) + 1 :]) or "(it was the last)"
    done = ci(tmp_path, fails=step)
    assert done.returncode == 1
    assert done.stdout.endswith(f"=== make {step}\ndid {step}\n")
    assert done.stderr == f"=== FAILED: make {step}; did not run: {rest}\n"
