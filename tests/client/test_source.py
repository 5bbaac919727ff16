"""Token sources: one call for all who ask, none while the token is fresh; and the HTTP adapters."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from typing import Any

import httpx2
import pytest

from tokenvault import AsyncTokenSource, ConsentRequired, GrantExpired, Token, TokenSource, VaultUnreachable
from tokenvault.http import httpx2_auth, httpx_auth, requests_auth


def token(version: str, life: float | None = 300.0, *, degraded: bool = False) -> Token:
    end = None if life is None else datetime.now(UTC) + timedelta(seconds=life)
    return Token(f"s3cret-{version}", "Bearer", end, (), version, None, degraded)


class Sidecar:
    """Answers in order what it is given: tokens, or errors to raise; keeps what was reported."""

    def __init__(self, *answers: Token | Exception) -> None:
        self.answers = list(answers)
        self.reported: list[str | None] = []
        self.gate = threading.Event()
        self.gate.set()

    def ask(self, rejected: str | None) -> Token:
        self.reported.append(rejected)
        self.gate.wait(30)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def ask_async(self, rejected: str | None) -> Token:
        await asyncio.sleep(0.05)
        return self.ask(rejected)


def test_a_thousand_users_of_threads_cost_one_call() -> None:
    sidecar = Sidecar(token("v1"))
    source = TokenSource(sidecar.ask)
    sidecar.gate.clear()
    with ThreadPoolExecutor(100) as threads:
        asked = [threads.submit(source.token) for _ in range(1000)]
        sidecar.gate.set()
        assert {future.result().token_version for future in asked} == {"v1"}
    assert len(sidecar.reported) == 1


async def test_a_thousand_tasks_cost_one_call_and_who_goes_away_ends_it_for_nobody() -> None:
    sidecar = Sidecar(token("v1"))
    source = AsyncTokenSource(sidecar.ask_async)
    tasks = [asyncio.create_task(source.token()) for _ in range(1000)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    came = await asyncio.gather(*tasks[1:])
    assert {one.token_version for one in came} == {"v1"}
    assert len(sidecar.reported) == 1


@pytest.mark.parametrize("life", [60.0, 300.0, None])
def test_a_fresh_token_costs_no_call(life: float | None) -> None:
    sidecar = Sidecar(token("v1", life))
    source = TokenSource(sidecar.ask)
    assert [source.token().token_version for _ in range(100)] == ["v1"] * 100
    assert sidecar.reported == [None]


def test_a_token_that_is_over_is_asked_for_again() -> None:
    sidecar = Sidecar(token("v1", -1.0), token("v2"))
    source = TokenSource(sidecar.ask)
    assert [source.token().token_version for _ in range(3)] == ["v1", "v2", "v2"]


def test_a_rejected_version_is_reported_once_and_only_where_it_is_the_one_held() -> None:
    sidecar = Sidecar(token("v1"), token("v2"))
    source = TokenSource(sidecar.ask)
    source.token()
    assert source.token(rejected="v1").token_version == "v2"
    assert source.token(rejected="v1").token_version == "v2"
    assert sidecar.reported == [None, "v1"]


def test_a_failure_is_kept_for_nobody() -> None:
    sidecar = Sidecar(GrantExpired("over"), token("v1"))
    source = TokenSource(sidecar.ask)
    with pytest.raises(GrantExpired):
        source.token()
    assert source.token().token_version == "v1"


def test_without_a_sidecar_the_token_that_is_held_serves_unless_it_was_rejected() -> None:
    sidecar = Sidecar(token("v1", 2.0, degraded=True), *[VaultUnreachable("gone")] * 2)
    source = TokenSource(sidecar.ask)
    source.token()
    while len(sidecar.reported) < 2:  # it is asked anew after a second
        assert source.token().token_version == "v1"
        time.sleep(0.05)
    with pytest.raises(VaultUnreachable):
        source.token(rejected="v1")


@pytest.mark.parametrize(("library", "auth"), [("httpx2", httpx2_auth), ("httpx", httpx_auth)])
def test_httpx_shows_the_token_and_after_a_401_a_newer_one_once(
    library: str, auth: Callable[[TokenSource], Any]
) -> None:
    httpx = import_module(library)
    sidecar = Sidecar(token("v1"), token("v2"))
    shown: list[str] = []

    def api(request: Any) -> Any:
        shown.append(request.headers["Authorization"])
        return httpx.Response(401 if len(shown) == 1 else 200)

    with httpx.Client(transport=httpx.MockTransport(api), auth=auth(TokenSource(sidecar.ask))) as http:
        assert http.get("https://api.example/").status_code == 200
    assert shown == ["Bearer s3cret-v1", "Bearer s3cret-v2"]
    assert sidecar.reported == [None, "v1"]


@pytest.mark.parametrize(("library", "auth"), [("httpx2", httpx2_auth), ("httpx", httpx_auth)])
def test_httpx_sends_a_stream_once_and_reports_its_401(
    library: str, auth: Callable[[TokenSource], Any]
) -> None:
    httpx = import_module(library)
    sidecar = Sidecar(token("v1"), GrantExpired("gone"), token("v2"))
    shown: list[str] = []

    class Api(httpx.BaseTransport):  # type: ignore[misc,name-defined]  # MockTransport would keep the stream
        def handle_request(self, request: Any) -> Any:
            shown.append(request.headers["Authorization"])
            return httpx.Response(401 if len(shown) == 1 else 200)

    with httpx.Client(transport=Api(), auth=auth(TokenSource(sidecar.ask))) as http:
        assert http.post("https://api.example/", content=iter([b"body"])).status_code == 401
        assert sidecar.reported == [None, "v1"]
        assert http.post("https://api.example/", content=iter([b"body"])).status_code == 200
    assert shown == ["Bearer s3cret-v1", "Bearer s3cret-v2"]


def test_a_consent_that_was_withdrawn_is_told_instead_of_the_401() -> None:
    auth = httpx2_auth(TokenSource(Sidecar(token("v1"), GrantExpired("gone")).ask))
    api = httpx2.MockTransport(lambda _: httpx2.Response(401))
    with httpx2.Client(transport=api, auth=auth) as http, pytest.raises(ConsentRequired):
        http.get("https://api.example/")


@pytest.mark.parametrize("statuses", [[200], [401, 200], [401, 401]])
def test_requests_shows_the_token_and_after_a_401_a_newer_one_once(statuses: list[int]) -> None:
    requests = import_module("requests")
    sidecar = Sidecar(token("v1"), token("v2"))
    shown: list[tuple[str | None, bytes]] = []

    class Api(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            shown.append((self.headers["Authorization"], body))
            self.send_response(statuses[len(shown) - 1])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with requests.Session() as http:
            http.trust_env = False
            url = f"http://127.0.0.1:{server.server_port}/orders"
            answer = http.post(url, data="body", auth=requests_auth(TokenSource(sidecar.ask)), timeout=30)
        server.shutdown()
    assert answer.status_code == statuses[-1]
    assert shown == [("Bearer s3cret-v1", b"body"), ("Bearer s3cret-v2", b"body")][: len(statuses)]
    assert sidecar.reported == [None, "v1"][: len(statuses)]


async def test_httpx2_of_asyncio() -> None:
    sidecar = Sidecar(token("v1"), token("v2"))
    shown: list[str] = []

    def api(request: httpx2.Request) -> httpx2.Response:
        shown.append(request.headers["Authorization"])
        return httpx2.Response(401)

    auth = httpx2_auth(AsyncTokenSource(sidecar.ask_async))
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(api), auth=auth) as http:
        assert (await http.get("https://api.example/")).status_code == 401
    assert shown == ["Bearer s3cret-v1", "Bearer s3cret-v2"]
