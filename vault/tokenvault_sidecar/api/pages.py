"""The page a consumer sees when they come back: one file, nothing from elsewhere, and no script it needs."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from string import Template
from typing import Final

from tokenvault_sidecar.api.words import LANGUAGES, RIGHT_TO_LEFT, Face, Words
from tokenvault_sidecar.core.model import Delegated

FORGET: Final = 'history.replaceState(null,"",location.pathname)'
"""Takes code and state out of the address, and so out of the history."""

KEEP: Final = "0"
"""Leaves them there: the page is to be reloaded."""

CLOSE: Final = "setTimeout(function(){window.close()},3000)"
"""Closes the pop-up it was opened as; a tab that nobody opened stays."""

UNTOLD: Final[Mapping[str, str]] = {"openid": "", "offline_access": ""}
"""Scopes that mean nothing to a consumer, unless the configuration says what."""

_STYLE: Final = Template(
    "*{box-sizing:border-box}"
    "body{margin:0;min-height:100vh;display:flex;align-items:center;justify-content:center;padding:1.5rem;"
    "background:$background;color:$text;"
    'font:1.125rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}'
    "main{width:100%;max-width:30rem;border-block-start:.375rem solid $accent;padding-block-start:1.5rem;"
    "overflow-wrap:anywhere}"
    "img{max-width:10rem;max-height:4rem;display:block}"
    ".brand{margin:.75rem 0 0;font-weight:600;color:$accent}"
    "h1{margin:.25rem 0 .75rem;font-size:1.75rem;line-height:1.25}"
    "p{margin:0 0 1rem}ul{margin:0;padding-inline-start:1.25rem}"
)
_CODE_STYLE: Final = (
    ".code{display:inline-block;font:700 2.5rem/1.2 ui-monospace,Menlo,Consolas,monospace;"
    "letter-spacing:.05em;user-select:all;-webkit-user-select:all;white-space:nowrap}"
    ".heard{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap;"
    "user-select:none;-webkit-user-select:none}"
)
_PAGE: Final = Template(
    '<!doctype html><html lang="$language" dir="$direction"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1">'
    '<meta name="robots" content="noindex"><title>$title – $name</title><style>$style</style></head>'
    '<body><main>$logo<p class="brand">$name</p><h1>$title</h1><p>$words</p>$code$granted</main>'
    "<script>$script</script></body></html>"
)

# Eyes and clipboards get groups of four; screen readers one digit after the other, not a number.
_CODE: Final = Template(
    '<p aria-hidden="true"><bdi class="code" dir="ltr">$shown</bdi></p><p class="heard" dir="ltr">$heard</p>'
    "<p><strong>$only</strong></p>"
)


@dataclass(frozen=True, slots=True)
class Look:
    """How a brand's page looks. Colours are CSS's #rrggbb; `logo` is a data: URL, or None.

    `scopes` says in words what a scope allows; one with "" is not shown, one that is not in it by its name.
    """

    name: str
    logo: str | None = field(default=None, repr=False)
    text: str = "#1b1b1f"
    background: str = "#ffffff"
    accent: str = "#1b1b1f"
    scopes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Page:
    """The page's bytes, and the policy it needs: that nothing is loaded, and no other script runs."""

    html: bytes
    policy: str


def page(look: Look, face: Face, language: str, done: Delegated | None = None) -> Page:
    """`done` is what came of it. Nothing in it comes from the request but the choice of language and face."""
    words = LANGUAGES[language]
    style = _STYLE.substitute(text=look.text, background=look.background, accent=look.accent)
    code = ""
    if done and done.confirmation:
        style += _CODE_STYLE
        code = _code(done.confirmation.code.reveal(), words)
    script = {Face.DONE: f"{FORGET};{CLOSE}", Face.WAIT: KEEP}.get(face, FORGET)
    allowed = [{**UNTOLD, **look.scopes}.get(scope, scope) for scope in done.scopes] if done else []
    items = "".join(f"<li>{escape(item)}</li>" for item in allowed if item)
    html = _PAGE.substitute(
        language=language,
        direction="rtl" if language in RIGHT_TO_LEFT else "ltr",
        title=escape(words[face]),
        name=escape(look.name),
        style=style,
        logo=f'<img src="{look.logo}" alt="">' if look.logo else "",
        words=escape(words[f"{face}.text"]),
        code=code,
        granted=f"<p>{escape(words['code.may' if code else 'may'])}</p><ul>{items}</ul>" if items else "",
        script=script,
    )
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Page(html.encode(), policy)


def _code(code: str, words: Words) -> str:
    return _CODE.substitute(
        shown=f"{code[:4]} {code[4:]}", heard=" ".join(code), only=escape(words["code.only"])
    )


def _hash(inline: str) -> str:
    """As CSP names what stands in the page itself (CSP Level 3 section 2.3.1)."""
    digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
    return f"'sha256-{digest}'"
