"""One running service for all that is sent to it."""

import asyncio
from collections.abc import Iterator

import pytest
import uvloop

from tests.fuzz.target import Target, target


@pytest.fixture(scope="package")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.fixture(scope="package")
def fuzzed(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    running = target(tmp_path_factory.mktemp("target"))
    yield runner.run(running.__aenter__())
    runner.run(running.__aexit__(None, None, None))
