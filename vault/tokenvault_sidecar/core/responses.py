"""Reading a token endpoint's answer (RFC 6749 section 5.1), without I/O.

After a code exchange a bad answer is refused: nothing is lost but a click.
After a redemption the old refresh token may be used up, so whatever can be
kept is: only an answer without an access token is refused.
"""

import math
import re
from dataclasses import replace

from tokenvault_sidecar.core.model import Secret, TokenSet
from tokenvault_sidecar.core.ports import TokenAnswer

_LONGEST = 10 * 365 * 86400.0
_TOKEN = re.compile(r"[\x21-\x7e]+")
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")


class UnusableAnswer(Exception):
    """The answer is not a usable token response; the text says why, without its values."""


def read_exchange(answer: TokenAnswer, *, version: str, scopes: tuple[str, ...], now: float) -> TokenSet:
    """The token set of a code exchange. `scopes` were asked for. Raises UnusableAnswer."""
    token_type = answer.get("token_type")
    if not isinstance(token_type, str) or token_type.lower() != "bearer":
        raise UnusableAnswer("its token_type is not Bearer")
    life = _expires_in(answer)
    if "expires_in" in answer and life is None:
        raise UnusableAnswer("its expires_in is not a number of seconds")
    if life is not None and life <= 0:
        raise UnusableAnswer("its access token has expired already")
    granted = _scopes(answer)
    if "scope" in answer and granted is None:
        raise UnusableAnswer("its scope is not a list of scope tokens")
    return TokenSet(
        version=version,
        access_token=_access_token(answer),
        token_type="Bearer",  # noqa: S106 a type's name
        scopes=scopes if granted is None else granted,
        issued_at=now,
        expires_at=None if life is None else now + life,
        refresh_token=_optional(answer, "refresh_token"),
        id_token=_optional(answer, "id_token"),
    )


def read_renewal(answer: TokenAnswer, *, previous: TokenSet, version: str, now: float) -> TokenSet:
    """The token set of a redemption. What is left out or unreadable stays as it was (RFC 6749 section 6).

    The id token stays the previous one: a new one is taken over when it is verified. Raises UnusableAnswer.
    """
    life = _expires_in(answer)
    granted = _scopes(answer)
    return replace(
        previous,
        version=version,
        access_token=_access_token(answer),
        scopes=previous.scopes if granted is None else granted,
        issued_at=now,
        expires_at=None if life is None else now + max(life, 0.0),
        refresh_token=_optional(answer, "refresh_token") or previous.refresh_token,
    )


def id_token(answer: TokenAnswer) -> Secret | None:
    """The id token of an answer, not verified."""
    return _optional(answer, "id_token")


def _access_token(answer: TokenAnswer) -> Secret:
    value = answer.get("access_token")
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise UnusableAnswer("it holds no usable access_token")
    return Secret(value)


def _optional(answer: TokenAnswer, name: str) -> Secret | None:
    value = answer.get(name)
    return Secret(value) if isinstance(value, str) and _TOKEN.fullmatch(value) else None


def _expires_in(answer: TokenAnswer) -> float | None:
    """Seconds, also where sent as a string of digits; None: absent or unreadable."""
    value = answer.get("expires_in")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return min(seconds, _LONGEST) if math.isfinite(seconds) else None


def _scopes(answer: TokenAnswer) -> tuple[str, ...] | None:
    value = answer.get("scope")
    if not isinstance(value, str):
        return None
    scopes = tuple(value.split())
    return scopes if all(_SCOPE.fullmatch(s) for s in scopes) else None
