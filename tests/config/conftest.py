"""Fixtures of the configuration's tests."""

from pathlib import Path

import pytest

from tests.config.documents import Document


@pytest.fixture
def document(tmp_path: Path) -> Document:
    return Document(tmp_path / "vault")
