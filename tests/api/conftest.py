"""Certificates and a running server for the tests of the API."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.api.running import Pki, Running, serving


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki.create(tmp_path)


@pytest.fixture
async def running(pki: Pki) -> AsyncIterator[Running]:
    async with serving(pki) as running:
        yield running
