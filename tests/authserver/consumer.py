"""A headless consumer: a browser and somebody who clicks."""

import ssl
from html.parser import HTMLParser
from typing import Literal
from urllib.parse import parse_qsl, urljoin, urlsplit

import httpx2

_MAX_STEPS = 20


class AuthorizationPageError(Exception):
    """The server showed the consumer an error page instead of sending them back; holds the page's text."""


class Consumer:
    """Takes authorization URLs through the pages of login and consent.

    Every `authorize` is a new browser without cookies: the server has no
    session to remember, so every login is a grant of its own. `verify` is
    for https: the context that knows the server's CA; without it, http only.
    """

    def __init__(self, *, verify: ssl.SSLContext | None = None) -> None:
        self._verify = verify or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    async def authorize(
        self, url: str, account: str = "alice", *, decline: Literal["login", "consent"] | None = None
    ) -> dict[str, str]:
        """Follow `url`, log in as `account`, consent: the parameters that the redirect URI would have got.

        These are `code`, `state` and `iss`, or `error` and so on. The redirect URI is
        not called. `decline`: the page at which the consumer cancels. Raises
        AuthorizationPageError where the server shows an error page.
        """
        redirect_uri = dict(parse_qsl(urlsplit(url).query)).get("redirect_uri")
        async with httpx2.AsyncClient(verify=self._verify, trust_env=False, timeout=30.0) as browser:
            answer = await browser.get(url)
            for _ in range(_MAX_STEPS):
                if answer.is_redirect:
                    target = urljoin(str(answer.url), answer.headers["location"])
                    if redirect_uri and target.partition("?")[0] == redirect_uri.partition("?")[0]:
                        return dict(parse_qsl(urlsplit(target).query, keep_blank_values=True))
                    answer = await browser.get(target)
                    continue
                page = _Page(answer.text)
                if answer.is_error or page.action is None:
                    raise AuthorizationPageError(f"{answer.status_code}: {' '.join(page.text)}")
                if page.fields.get("prompt") == decline and page.cancel is not None:
                    answer = await browser.get(urljoin(str(answer.url), page.cancel))
                    continue
                if "login" in page.fields:
                    page.fields |= {"login": account, "password": "any will do"}
                answer = await browser.post(urljoin(str(answer.url), page.action), data=page.fields)
        raise AuthorizationPageError(f"not back at the redirect URI after {_MAX_STEPS} steps")

    async def come_back(
        self, url: str, account: str = "alice", *, decline: Literal["login", "consent"] | None = None
    ) -> httpx2.Response:
        """As `authorize`, and on to the redirect URI: what is shown there."""
        redirect_uri = dict(parse_qsl(urlsplit(url).query))["redirect_uri"]
        answer = await self.authorize(url, account, decline=decline)
        async with httpx2.AsyncClient(verify=self._verify, trust_env=False, timeout=30.0) as browser:
            return await browser.get(redirect_uri, params=answer)


class _Page(HTMLParser):
    """The one form of a page, its "Cancel" link, and its visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.action: str | None = None
        self.cancel: str | None = None
        self.fields: dict[str, str] = {}
        self.text: list[str] = []
        self._unseen = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        href, name = attributes.get("href"), attributes.get("name")
        if tag == "form":
            self.action = attributes.get("action")
        elif tag == "input" and name:
            self.fields[name] = attributes.get("value") or ""
        elif tag == "a" and href and href.endswith("/abort"):
            self.cancel = href
        elif tag in ("style", "script"):
            self._unseen = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("style", "script"):
            self._unseen = False

    def handle_data(self, data: str) -> None:
        if data.strip() and not self._unseen:
            self.text.append(data.strip())
