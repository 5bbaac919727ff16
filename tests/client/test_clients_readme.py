"""What client/README.md shows for C++ and Rust are the files that `make test-from-proto` builds."""

import re
from pathlib import Path

import pytest

CLIENT = Path(__file__).parents[2] / "client"
SHOWN = dict(
    re.findall(
        r"^`(examples/[\w./]+)`[^\n]*\n\n```\w+\n(.*?)```$",
        (CLIENT / "README.md").read_text(encoding="utf-8"),
        flags=re.DOTALL | re.MULTILINE,
    )
)


def test_every_file_is_shown() -> None:
    files = {str(p.relative_to(CLIENT)) for p in (CLIENT / "examples").rglob("*.*") if p.is_file()}
    assert set(SHOWN) == {file for file in files if not file.endswith("Cargo.lock")}


@pytest.mark.parametrize("file", SHOWN)
def test_as_it_is(file: str) -> None:
    assert SHOWN[file] == (CLIENT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("language", ["cpp", "rust"])
def test_under_thirty_lines(language: str) -> None:
    """Stubs and connection together, without the list of dependencies."""
    lines = [content.count("\n") for file, content in SHOWN.items() if f"/{language}/" in file]
    manifest = SHOWN["examples/rust/Cargo.toml"].count("\n") if language == "rust" else 0
    assert 0 < sum(lines) - manifest < 30
