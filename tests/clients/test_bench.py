"""`make bench-clients`, shortly: no figure is judged here but that memory costs no call."""

import re
import subprocess
import sys


def test_it_tells_of_both_ways_for_each_language() -> None:
    command = [sys.executable, "-m", "tests.clients.bench", "Python", "Node", "--seconds", "0.2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    heading, *rows = done.stdout.splitlines()
    assert heading.split("  ")[0] == "calls/s"
    found = [re.fullmatch(r"(\w+) +([\d,]+) +([\d,]+) +([\d,]+)", row) for row in rows]
    assert [row and row[1] for row in found] == ["Python", "Node"]
    for row in found:
        assert row is not None
        memory, rpc = (int(figure.replace(",", "")) for figure in row.group(2, 3))
        assert memory > rpc > 0
