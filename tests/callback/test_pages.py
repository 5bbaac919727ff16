"""The page: complete in every language, allowed by its own policy, and readable."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tokenvault_sidecar.api.pages import Look, page
from tokenvault_sidecar.api.words import LANGUAGES, Face
from tokenvault_sidecar.core.model import Confirmation, Context, ContextKind, Delegated, Secret

DONE = Delegated("acme", Context(ContextKind.CONSUMER, "alice"), ("orders",), None, None, None)
SHOWN = replace(DONE, confirmation=Confirmation(Secret("01234567"), 1_800_000_000.0))
EVERY = [(face, language) for face in Face for language in LANGUAGES]
LOOK = Look("Acme", logo="data:image/png;base64,AAAA")


def test_every_language_has_all_the_words() -> None:
    assert set(LANGUAGES) == {"en", "de", "fr", "es", "nl", "he"}
    for words in LANGUAGES.values():
        assert set(words) == set(LANGUAGES["en"])
        assert all(words.values())
    for key in LANGUAGES["en"]:
        assert len({words[key] for words in LANGUAGES.values()}) == len(LANGUAGES), f"{key} is untranslated"


@pytest.mark.parametrize(("face", "language"), EVERY)
def test_the_policy_lets_through_what_is_in_it_and_no_more(face: Face, language: str) -> None:
    made = page(LOOK, face, language, SHOWN if face is Face.CODE else DONE)
    html = made.html.decode()
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        (inline,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in made.policy
    assert not re.search(r'(?:src|href|action)="(?!data:)', html)
    assert " on" not in re.sub(r">[^<]*<", "><", html).replace(" content=", " ")
    assert "http" not in html


@pytest.mark.parametrize(("face", "language"), EVERY)
def test_a_screen_reader_finds_its_way(face: Face, language: str) -> None:
    class Outline(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.tags: list[str] = []
            self.attributes: dict[str, dict[str, str | None]] = {}

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.tags.append(tag)
            self.attributes[tag] = dict(attrs)

    outline = Outline()
    outline.feed(page(LOOK, face, language, SHOWN if face is Face.CODE else None).html.decode())
    assert outline.attributes["html"]["lang"] == language
    assert outline.tags.count("main") == outline.tags.count("h1") == outline.tags.count("title") == 1
    assert outline.attributes["img"]["alt"] == ""  # the name stands beside it


def test_only_the_good_end_closes_the_window() -> None:
    closing = {face for face in Face if b"window.close" in page(LOOK, face, "en").html}
    assert closing == {Face.DONE}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_code_is_shown_to_eyes_in_groups_and_to_ears_in_digits(language: str) -> None:
    html = page(LOOK, Face.CODE, language, SHOWN).html.decode()
    assert '<p aria-hidden="true"><bdi class="code" dir="ltr">0123 4567</bdi></p>' in html
    assert '<p class="heard" dir="ltr">0 1 2 3 4 5 6 7</p>' in html
    assert html.count("0123") == 1  # in no title, and in no script
    words = LANGUAGES[language]
    assert words["code.only"] in html
    assert words["code.may"] in html
    assert words["may"] not in html


def test_other_faces_have_no_code() -> None:
    for face in set(Face) - {Face.CODE}:
        assert b"heard" not in page(LOOK, face, "en", DONE).html
