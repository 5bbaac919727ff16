"""pytest fixtures around the authorization server; tests/conftest.py makes them known."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.authserver.consumer import Consumer
from tests.authserver.oidc import OidcProvider
from tests.authserver.proxy import FaultProxy

StartProvider = Callable[..., OidcProvider]
"""OidcProvider's constructor, returning it started; it is stopped when the test is over."""


@pytest.fixture(scope="session")
def oidc_provider() -> Iterator[OidcProvider]:
    """One server for many tests, with its defaults. Change nothing in it that others would notice."""
    with OidcProvider() as provider:
        yield provider


@pytest.fixture
def start_provider() -> Iterator[StartProvider]:
    """A server of one's own, for tests that need special settings or faults: about 0.4 s each."""
    with ExitStack() as stack:

        def start(**settings: object) -> OidcProvider:
            return stack.enter_context(OidcProvider(**settings))  # type: ignore[arg-type]  # passed on as they are

        yield start


@pytest.fixture
async def fault_proxy() -> AsyncIterator[FaultProxy]:
    """A proxy without faults, and nothing behind it yet.

    `fault_proxy.forward_to(start_provider(issuer=fault_proxy.url).port)`
    """
    async with FaultProxy() as proxy:
        yield proxy


@pytest.fixture
def consumer() -> Consumer:
    """A consumer with a browser."""
    return Consumer()
