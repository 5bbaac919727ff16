"""Each fault of the proxy, as a client and as the server sees it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import httpx2
import pytest

from tests.authserver import clients, proxy
from tests.authserver.fixtures import StartProvider
from tests.authserver.oidc import OidcProvider
from tests.authserver.plain_client import PlainClient, plain_http
from tests.authserver.proxy import Fault, FaultProxy, Wait


@dataclass(frozen=True, slots=True)
class Behind:
    """A server behind the proxy, and a client that only knows the proxy."""

    proxy: FaultProxy
    provider: OidcProvider
    client: PlainClient

    async def refresh(self) -> httpx2.Response:
        return await self.client.refresh("none")

    def acted(self) -> int:
        """How many token requests the server has answered."""
        return len(self.provider.token_requests())


@pytest.fixture
def behind(start_provider: StartProvider, fault_proxy: FaultProxy) -> Behind:
    provider = start_provider(issuer=fault_proxy.url)
    fault_proxy.forward_to(provider.port)
    return Behind(fault_proxy, provider, PlainClient(provider, clients.BASIC))


async def test_whole_flow_through_the_proxy(behind: Behind) -> None:
    tokens = await behind.client.login()
    assert behind.provider.issuer == behind.proxy.url
    assert (await behind.client.refresh(tokens["refresh_token"])).status_code == 200
    assert behind.proxy.count() == 2
    assert behind.proxy.count(on=lambda path: path.startswith("/auth")) >= 1


@pytest.mark.parametrize(
    ("fault", "forwarded"),
    [(proxy.RESET_BEFORE, 0), (proxy.RESET_AFTER, 1), (proxy.TRUNCATED, 1)],
    ids=lambda value: value.name if isinstance(value, Fault) else "",
)
async def test_no_whole_answer(behind: Behind, fault: Fault, forwarded: int) -> None:
    behind.proxy.queue(fault)
    with pytest.raises((httpx2.ReadError, httpx2.RemoteProtocolError)):
        await behind.refresh()
    assert behind.acted() == forwarded
    assert (await behind.refresh()).json()["error"] == "invalid_grant"


@pytest.mark.parametrize("fault", [proxy.HALF_JSON, proxy.HTML], ids=lambda fault: fault.name)
async def test_wrong_answer(behind: Behind, fault: Fault) -> None:
    behind.proxy.queue(fault)
    answer = await behind.refresh()
    assert answer.status_code == 200
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        answer.json()
    assert behind.acted() == 1


async def test_status(behind: Behind) -> None:
    for code in (429, 500, 502, 503):
        for retry_after in (None, 3):
            behind.proxy.queue(proxy.status(code, retry_after=retry_after))
            answer = await behind.refresh()
            assert answer.status_code == code
            assert answer.headers.get("Retry-After") == (None if retry_after is None else "3")
    assert behind.acted() == 0


@pytest.mark.parametrize("make", [proxy.delayed, proxy.held])
async def test_client_gives_up(behind: Behind, make: Callable[[Wait], Fault]) -> None:
    behind.proxy.queue(make(asyncio.Event()))
    request = asyncio.create_task(behind.refresh())
    await (behind.proxy.until_count(1) if make is proxy.delayed else behind.proxy.until_acted(1))
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert behind.acted() == behind.proxy.acted() == (0 if make is proxy.delayed else 1)


@pytest.mark.parametrize("make", [proxy.delayed, proxy.held])
async def test_released(behind: Behind, make: Callable[[Wait], Fault]) -> None:
    released = asyncio.Event()
    behind.proxy.queue(make(released))
    request = asyncio.create_task(behind.refresh())
    await behind.proxy.until_count(1)
    assert not request.done()
    released.set()
    assert (await request).json()["error"] == "invalid_grant"


async def test_slow_loris(behind: Behind) -> None:
    behind.proxy.queue(proxy.slow_loris(0.0001))
    assert (await behind.refresh()).json()["error"] == "invalid_grant"

    behind.proxy.queue(proxy.slow_loris(60.0))
    request = asyncio.create_task(behind.refresh())
    await behind.proxy.until_acted(2)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request


async def test_which_requests_meet_a_fault(behind: Behind) -> None:
    behind.proxy.set(proxy.status(500))
    behind.proxy.queue(proxy.status(503), proxy.PASS)
    behind.proxy.queue(proxy.status(502), on=lambda path: path.startswith("/.well-known/"))
    assert [(await behind.refresh()).status_code for _ in range(3)] == [503, 400, 500]
    async with plain_http() as http:
        metadata = f"{behind.proxy.url}/.well-known/openid-configuration"
        assert [(await http.get(metadata)).status_code for _ in range(2)] == [502, 200]
    behind.proxy.clear()
    assert (await behind.refresh()).status_code == 400
    assert [seen.fault for seen in behind.proxy.requests if seen.path == "/token"] == [
        "status 503",
        "pass",
        "status 500",
        "pass",
    ]
