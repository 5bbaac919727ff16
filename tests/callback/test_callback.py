"""Consumers who come back: the delegation is completed, and they see how it ended."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from tests.callback.listening import BOT, Listening, listening
from tests.core.world import ACME, ALICE, CHAT, permit_all
from tokenvault_sidecar.api.pages import Look
from tokenvault_sidecar.core.challenges import DelegationRequest
from tokenvault_sidecar.core.confirmation import read_code
from tokenvault_sidecar.core.errors import GrantNotFound, ServerUnavailable
from tokenvault_sidecar.core.model import ContextKind
from tokenvault_sidecar.core.policy import Policy

CODE, DONE, DECLINED, USED, WAIT, WRONG = (
    "One more step",
    "You are logged in",
    "You have not agreed",
    "This link is no longer valid",
    "Not finished yet",
    "Something went wrong",
)


@pytest_asyncio.fixture
async def port() -> AsyncIterator[Listening]:
    async with listening() as port:
        yield port


async def test_a_code_becomes_a_grant_and_the_caller_is_told(port: Listening) -> None:
    answer = await port.get(await port.came_back())
    assert (answer.status, DONE in answer.body) == (200, True)
    assert (await port.world.get()).access_token
    ((call, outcome),) = port.recorded
    assert (call.rpc, call.caller, call.brand, call.context, outcome) == (
        "Callback",
        BOT,
        "acme",
        ALICE,
        "OK",
    )


async def test_by_form_post(port: Listening) -> None:
    answer = await port.post(await port.came_back(CHAT), "application/x-www-form-urlencoded; charset=utf-8")
    assert (answer.status, DONE in answer.body) == (200, True)
    assert (await port.world.get(CHAT)).access_token
    assert USED in (await port.post(await port.came_back(), "text/plain")).body


async def test_coming_back_twice_is_harmless(port: Listening) -> None:
    sent = await port.came_back()
    await port.get(sent)
    token = await port.world.get()
    answer = await port.get(sent)
    assert (answer.status, USED in answer.body) == (404, True)
    assert (await port.world.get()).version == token.version


async def test_one_who_has_to_bring_a_code_is_shown_it_once(port: Listening) -> None:
    world = port.world
    world.vault.brands = {"acme": replace(ACME, confirms=True)}
    url = await world.delegations.start(DelegationRequest("acme", ALICE, "bot"))
    answer = world.server.login(url.authorization_url.reveal())
    assert answer.code is not None
    sent = {"state": answer.state.reveal(), "code": answer.code.reveal(), "iss": world.server.issuer}
    shown = await port.get(sent)
    assert (shown.status, CODE in shown.body) == (200, True)
    assert shown.headers["cache-control"] == "no-store"
    (code,) = re.findall(r'class="code"[^>]*>([0-9]{4} [0-9]{4})<', shown.body)
    for place in (*shown.headers.values(), *(secret for secret in sent.values() if secret in shown.body)):
        assert code not in place
        assert place not in (sent["state"], sent["code"])
    with pytest.raises(GrantNotFound):
        await world.get()
    assert USED in (await port.get(sent)).body
    ((call, outcome),) = port.recorded
    assert (call.rpc, call.context, outcome) == ("Callback", ALICE, "CONFIRMATION_REQUIRED")
    typed = read_code(code)
    assert typed is not None
    await world.delegations.confirmations.confirm(url.delegation_id, typed, caller="bot", permit=permit_all)
    assert (await world.get()).access_token


async def test_one_who_declined(port: Listening) -> None:
    answer = await port.get(await port.came_back(code=None, error="access_denied", error_description="<b>no"))
    assert (answer.status, DECLINED in answer.body) == (200, True)
    assert "<b>no" not in answer.body
    assert [outcome for _, outcome in port.recorded] == ["AUTHORIZATION_DENIED"]


async def test_one_who_comes_too_late(port: Listening) -> None:
    sent = await port.came_back()
    port.world.clock.advance(3600)
    assert USED in (await port.get(sent)).body


async def test_what_fails_beyond_has_a_face_of_its_own(port: Listening) -> None:
    sent = await port.came_back()
    port.world.server.faults.append(ServerUnavailable("away"))
    answer = await port.get(sent)
    assert (answer.status, WAIT in answer.body) == (503, True)
    assert "replaceState" not in answer.body  # the address is what is reloaded
    assert DONE in (await port.get(sent)).body  # the code was not used: it may be shown again
    assert WRONG in (await port.get(await port.came_back(iss="https://evil.test"))).body


@pytest.mark.parametrize("changes", [{"state": "guessed"}, {"state": None}, {"code": None}, {"error": "x"}])
async def test_nobody_is_asked_about_what_is_no_answer(
    port: Listening, changes: dict[str, str | None]
) -> None:
    sent = await port.came_back(ALICE, **changes)
    port.world.server.requests.clear()
    assert USED in (await port.get(sent)).body
    assert port.world.server.requests == []
    assert port.recorded == []


async def test_a_parameter_given_twice_is_refused_and_uses_nothing_up(port: Listening) -> None:
    sent = await port.came_back()
    twice = f"/callback/acme?state={sent['state']}&code=other"
    head = f"GET {twice}&code={sent['code']} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    assert USED.encode() in await port.raw(head.encode())
    assert DONE in (await port.get(sent)).body


async def test_the_state_is_bound_to_the_brand_in_the_path(port: Listening) -> None:
    port.callback.looks = {"acme": Look("Acme"), "other": Look("Other")}
    sent = await port.came_back()
    assert USED in (await port.get(sent, path="/callback/other")).body
    assert DONE in (await port.get(sent)).body


async def test_it_acts_for_the_caller_as_far_as_its_policy_goes_now(port: Listening) -> None:
    sent = await port.came_back()
    conversations = replace(BOT.allows[0], contexts=frozenset({ContextKind.CONVERSATION}))
    for policy in (Policy([]), Policy([replace(BOT, allows=(conversations,))])):
        port.policy = policy
        assert WRONG in (await port.get(sent)).body
    port.policy = Policy([BOT])
    assert DONE in (await port.get(sent)).body


async def test_looking_without_showing_anything_uses_nothing_up(port: Listening) -> None:
    sent = await port.came_back()
    query = "&".join(f"{name}={value}" for name, value in sent.items())
    for method in ("HEAD", "PUT", "OPTIONS", "DELETE"):
        head = f"{method} /callback/acme?{query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        assert (await port.raw(head.encode())).startswith(b"HTTP/1.1 405 ")
    assert DONE in (await port.get(sent)).body


async def test_it_serves_nothing_else(port: Listening) -> None:
    for path in (
        "/",
        "/callback",
        "/callback/",
        "/callback/nobody",
        "/callback/acme/",
        "/favicon.ico",
        "/docs",
    ):
        answer = await port.get({}, path=path)
        assert answer.status == 404
        assert len(answer.body) < 20


async def test_every_answer_has_the_security_headers(port: Listening) -> None:
    answers = [
        await port.get(await port.came_back()),
        await port.get({"state": "guessed", "code": "x"}),
        await port.get({}, path="/elsewhere"),
    ]
    for answer in answers:
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "server" not in answer.headers
        assert "set-cookie" not in answer.headers
    assert answers[0].headers["content-type"] == "text/html; charset=utf-8"


async def test_another_path_may_be_registered() -> None:
    async with listening("/callback/{brand}/redirectCode") as port:
        answer = await port.get(await port.came_back(), path="/callback/acme/redirectCode")
        assert DONE in answer.body
        assert (await port.get({}, path="/callback/acme")).status == 404


async def test_the_page_names_the_brand_and_what_was_granted() -> None:
    look = Look("Acme <Stores>", scopes={"api:read": "See your orders & returns"})
    async with listening(look=look) as port:
        body = (await port.get(await port.came_back())).body
    assert "Acme &lt;Stores&gt;" in body
    assert "<li>See your orders &amp; returns</li>" in body
    assert "openid" not in body


@pytest.mark.parametrize(
    ("asked", "language"),
    [("de-AT,en;q=0.5", "de"), ("pt,nl;q=0.3,fr;q=0.7", "fr"), ("xx", "en"), ("iw", "he"), (";;;,=", "en")],
)
async def test_it_speaks_the_browser_s_language(port: Listening, asked: str, language: str) -> None:
    answer = await port.get({}, language=asked)
    assert f'<html lang="{language}" dir="{"rtl" if language == "he" else "ltr"}">' in answer.body
    assert answer.headers["content-language"] == language


async def test_a_browser_that_goes_away_leaves_it_to_go_on(port: Listening) -> None:
    port.world.server.gate = asyncio.Event()
    sent = await port.came_back()
    asking = asyncio.create_task(port.get(sent))
    while not any(request == "authorization_code" for request in port.world.server.requests):  # noqa: ASYNC110  # no event tells
        await asyncio.sleep(0.01)
    asking.cancel()
    port.world.server.gate.set()
    await port.world.settle()
    assert (await port.world.get()).access_token


@pytest.mark.parametrize("confirms", [False, True], ids=["at once", "by a code"])
async def test_what_no_browser_waited_for_is_shown_to_the_next(port: Listening, confirms: bool) -> None:
    world = port.world
    world.vault.brands = {"acme": replace(ACME, confirms=confirms)}
    world.server.gate = asyncio.Event()
    sent = await port.came_back()
    asking = asyncio.create_task(port.get(sent))
    while "authorization_code" not in world.server.requests:  # noqa: ASYNC110  # no event tells
        await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.sleep(0.1)  # until the port has seen that
    world.server.gate.set()
    while not port.recorded:  # noqa: ASYNC110  # as above
        await asyncio.sleep(0.01)
    await world.settle()
    answer = await port.get(sent)
    assert (answer.status, CODE in answer.body) == (200, confirms)
    assert USED in (await port.get(sent)).body
