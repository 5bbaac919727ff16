"""What is wrong with a configuration, told so that it can be mended.

Values are not repeated: one may be a secret in the wrong place.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic_core import PydanticCustomError


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend. `key` is dotted, as in `brands.acme.redirect_uris[1]`; empty for the whole file."""

    file: Path
    key: str
    what: str
    remedy: str

    def __str__(self) -> str:
        subject = f"{self.key} {self.what}" if self.key else self.what
        return f"{self.file}: {subject}: {self.remedy}"


class ConfigError(Exception):
    """The configuration cannot be used; `problems` are all that were found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


REJECTED = "rejected"


def reject(what: str, remedy: str) -> PydanticCustomError:
    """A validator's error: the key's problem, and what to do about it."""
    return PydanticCustomError(REJECTED, "{what}: {remedy}", {"what": what, "remedy": remedy})


def nearest(word: str, known: Iterable[str]) -> str:
    """A remedy for a word that is not known."""
    known = sorted(known)
    match difflib.get_close_matches(word, known, n=1):
        case [guess]:
            return f"did you mean {guess!r}?"
    return f"known here are {', '.join(known)}" if known else "nothing is known here"


def dotted(parts: Iterable[str | int]) -> str:
    """A key's path as TOML writes it, with list entries counted from 0."""
    key = ""
    for part in parts:
        if isinstance(part, int):
            key += f"[{part}]"
        else:
            name = part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"'
            key += f".{name}" if key else name
    return key
