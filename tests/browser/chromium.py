"""`make test-browser`: consumers' way there and back, in a real Chromium; pictures go to build/browser."""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright

from tests.callback.house import House, running_house
from tests.callback.listening import listening
from tests.core.world import ACME, ALICE
from tests.e2e.vaults import connect
from tokenvault import AsyncPendingChallenge, AuthorizationDenied, ConfirmationRequired, GrantNotFound
from tokenvault_sidecar.api.pages import Look
from tokenvault_sidecar.core.errors import ServerUnavailable

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
PICTURES = Path("build/browser")
SIZES = {"phone": (360, 740), "desktop": (1280, 800)}
DONE, DECLINED, USED = "You are logged in", "You have not agreed", "This link is no longer valid"
CODE = "One more step"
LOGO = (
    "data:image/svg+xml;base64,PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciIHdpZHRoPSI2NCIgaGVpZ2h0PSI2NCI+"
    "PGNpcmNsZSBjeD0iMzIiIGN5PSIzMiIgcj0iMzIiIGZpbGw9IiMwYjVjYWQiLz48L3N2Zz4="
)
LOOK = Look(
    "Acme Stores", logo=LOGO, accent="#0b5cad", scopes={"api:read": "See your orders and what you returned"}
)


@pytest_asyncio.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        # Without its sandbox it may run as root, as builds in containers do.
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with running_house(tmp_path) as house:
        yield house


@pytest_asyncio.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[House]:
    async with running_house(tmp_path, confirmation_code=True) as house:
        yield house


async def from_a_chat(browser: Browser, challenge: AsyncPendingChallenge) -> Page:
    """The pop-up that a link in a chat opens, at the brand's login."""
    chat = await browser.new_page(locale="en")
    await chat.set_content(
        "<button onclick=\"open(this.value, 'login', 'width=400,height=640')\">Log in</button>"
    )
    await chat.locator("button").evaluate("(button, url) => button.value = url", challenge.authorization_url)
    async with chat.expect_popup() as opened:
        await chat.click("button")
    return await opened.value


async def log_in(page: Page) -> None:
    """Log in, and agree."""
    await page.fill("input[name=login]", "alice")
    await page.fill("input[name=password]", "any will do")
    await page.click("button[type=submit]")
    await page.wait_for_selector("input[name=prompt][value=consent]", state="attached")
    await page.click("button[type=submit]")


async def heading(page: Page) -> str:
    await page.wait_for_url("**/callback/**")
    return await page.locator("h1").inner_text()


async def test_a_pop_up_closes_by_itself_and_the_bot_is_told_within_a_second(
    browser: Browser, house: House
) -> None:
    async with connect(house.inner) as vault:
        challenge = await vault.challenge("acme", conversation="c-1")
        told = asyncio.create_task(challenge.outcome())
        popup = await from_a_chat(browser, challenge)
        closed = asyncio.get_running_loop().create_future()
        popup.on("close", lambda _: closed.set_result(True))
        await log_in(popup)
        assert await heading(popup) == DONE
        shown = time.monotonic()
        assert "?" not in popup.url
        assert (await told).granted_scopes
        assert time.monotonic() - shown < 1.0
        assert (await vault.get_token("acme", conversation="c-1")).access_token
        async with asyncio.timeout(20):
            await closed


async def test_one_who_declines_is_shown_so(browser: Browser, house: House) -> None:
    async with connect(house.inner) as vault:
        challenge = await vault.challenge("acme", conversation="c-1")
        popup = await from_a_chat(browser, challenge)
        await popup.click("a[href$='/abort']")
        assert await heading(popup) == DECLINED
        with pytest.raises(AuthorizationDenied):
            await challenge.outcome()


async def test_without_javascript_and_once_more_and_back(browser: Browser, house: House) -> None:
    plain = await browser.new_context(java_script_enabled=False, locale="en")
    page = await plain.new_page()
    async with connect(house.inner) as vault:
        challenge = await vault.challenge("acme", conversation="c-1")
        await page.goto(challenge.authorization_url)
        await log_in(page)
        assert await heading(page) == DONE
        token = await vault.get_token("acme", conversation="c-1")
        await page.reload()
        assert await heading(page) == USED
        await page.go_back()
        await page.go_forward()
        assert await heading(page) == USED
        assert (await vault.get_token("acme", conversation="c-1")).token_version == token.token_version


async def test_a_code_stays_on_the_screen_until_it_is_typed_into_the_chat(
    browser: Browser, guarded: House
) -> None:
    async with connect(guarded.inner) as vault:
        challenge = await vault.challenge("acme", conversation="c-1")
        popup = await from_a_chat(browser, challenge)
        await log_in(popup)
        assert await heading(popup) == CODE
        with pytest.raises(ConfirmationRequired):
            await challenge.outcome()
        with pytest.raises(GrantNotFound):
            await vault.get_token("acme", conversation="c-1")
        await popup.click(".code")  # selects all of it
        code = await popup.evaluate("getSelection().toString()")
        assert re.fullmatch("[0-9]{4} [0-9]{4}", code.strip())
        heard = " ".join(code.replace(" ", "").strip())
        assert heard in await popup.locator("main").aria_snapshot()
        assert code.strip() not in await popup.locator("main").aria_snapshot()
        assert code.replace(" ", "") not in f"{popup.url} {await popup.title()}"
        await popup.wait_for_timeout(4000)  # the other face would have closed it after three seconds
        assert not popup.is_closed()
        await challenge.confirm(code)
        assert (await vault.get_token("acme", conversation="c-1")).access_token
        await popup.reload()
        assert await heading(popup) == USED
        await popup.go_back()
        await popup.go_forward()
        assert await heading(popup) == USED
        assert (await vault.get_token("acme", conversation="c-1")).access_token


async def test_a_code_without_javascript_and_lost_by_a_reload(browser: Browser, guarded: House) -> None:
    plain = await browser.new_context(java_script_enabled=False, locale="en")
    page = await plain.new_page()
    async with connect(guarded.inner) as vault:
        challenge = await vault.challenge("acme", consumer="alice")
        await page.goto(challenge.authorization_url)
        await log_in(page)
        assert await heading(page) == CODE
        code = await page.locator(".code").inner_text()
        await page.reload()
        assert await heading(page) == USED
        assert await page.locator(".code").count() == 0
        await challenge.confirm(code)  # written down before
        assert (await vault.get_token("acme", consumer="alice")).access_token


async def test_one_who_comes_too_late(browser: Browser, tmp_path: Path) -> None:
    async with running_house(tmp_path, delegation_lifetime="1s") as house, connect(house.inner) as vault:
        challenge = await vault.challenge("acme", conversation="c-1")
        popup = await from_a_chat(browser, challenge)
        await asyncio.sleep(1.1)
        await log_in(popup)
        assert await heading(popup) == USED


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("language", ["en", "de", "he"])
async def test_every_face_fits_its_screen_and_keeps_to_its_own_policy(
    browser: Browser, size: str, language: str
) -> None:
    width, height = SIZES[size]
    context = await browser.new_context(viewport={"width": width, "height": height}, locale=language)
    page = await context.new_page()
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if "Policy" in said.text else None)
    async with listening(look=LOOK) as port:
        faces = {
            "code": await port.came_back(),
            "done": await port.came_back(),
            "declined": await port.came_back(ALICE, code=None, error="access_denied"),
            "used": {"state": "guessed", "code": "x"},
            "wrong": await port.came_back(),
        }
        for face, sent in faces.items():
            port.world.vault.brands = {"acme": replace(ACME, confirms=face == "code")}
            if face == "wrong":
                port.world.server.faults.append(ServerUnavailable("away"))
            query = "&".join(f"{name}={value}" for name, value in sent.items())
            await page.goto(f"http://{port.server.address}/callback/acme?{query}")
            await page.screenshot(path=PICTURES / f"{face}-{language}-{size}.png")
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            accent = await page.locator(".brand").evaluate("it => getComputedStyle(it).color")
            assert accent == "rgb(11, 92, 173)"
    assert complaints == []
