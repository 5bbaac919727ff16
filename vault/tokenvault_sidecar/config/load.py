"""From a file to a Config, or to all that is wrong with it."""

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tokenvault_sidecar.config.checks import check
from tokenvault_sidecar.config.problems import REJECTED, ConfigError, Problem, dotted, nearest
from tokenvault_sidecar.config.schema import FIXED, Config, OpsTable
from tokenvault_sidecar.config.tables import Table, is_list, is_named, table_of

_WRONG_KIND = {
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
}


def load_config(path: Path, fixed: Mapping[str, Any] | None = None) -> Config:
    """Read and check the file, and the files it names. Raises ConfigError.

    `fixed` is what the file's FIXED tables were, as `load_fixed` has them.
    """
    found: Iterable[Problem]
    document = _read(path)
    if fixed is not None:
        document = {name: table for name, table in document.items() if name not in FIXED}
        document.update(fixed)
    try:
        config = Config.model_validate(document, context=path.parent)
    except ValidationError as error:
        # Of an error only place and kind are taken: its text may hold what was in the file.
        found = [_problem(path, detail) for detail in error.errors(include_url=False, include_input=False)]
    else:
        found = [Problem(path, dotted(key), what, remedy) for key, what, remedy in check(config)]
        if not found:
            return config
    raise ConfigError(found)


def load_fixed(path: Path) -> dict[str, Any]:
    """The tables that are to stay as they are now, unchecked. Raises ConfigError."""
    return {name: table for name, table in _read(path).items() if name in FIXED}


def load_ops(path: Path) -> OpsTable | None:
    """Read and check the table [ops], and nothing else of the file. Raises ConfigError."""
    document = _read(path)
    if "ops" not in document:
        return None
    try:
        return OpsTable.model_validate(document["ops"], context=path.parent)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
    raise ConfigError([_problem(path, detail | {"loc": ("ops", *detail["loc"])}) for detail in found])


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problem = Problem(path, "", "there is no such file", "make one with `tokenvault init DIR`")
    except (OSError, UnicodeDecodeError):
        problem = Problem(path, "", "the file cannot be read", "make it a readable text file in UTF-8")
    except tomllib.TOMLDecodeError as error:
        problem = Problem(path, "", f"not TOML: {_place(error)}", "mend that line; strings stand in quotes")
    raise ConfigError([problem])


def _place(error: tomllib.TOMLDecodeError) -> str:
    """Where the error is; what it says of the line's content stays out."""
    _, _, place = str(error).rpartition("(at ")
    return place.rstrip(")")


def _problem(path: Path, error: ErrorDetails) -> Problem:
    loc, kind = error["loc"], error["type"]
    if loc[-1] == "[key]":
        loc = loc[:-1]
    table, name = _locate(loc)
    key = dotted(loc)
    if kind == REJECTED:
        return Problem(path, key, error["ctx"]["what"], error["ctx"]["remedy"])
    if kind == "extra_forbidden":
        return Problem(path, key, "is not a known key", nearest(name, table.model_fields))
    remedy = _example(loc, table, name)
    if kind == "missing":
        return Problem(path, key, "is missing", remedy)
    if kind in ("literal_error", "enum"):
        return Problem(path, key, "is not one of the known values", f"use {error['ctx']['expected']}")
    return Problem(path, key, _WRONG_KIND.get(kind, "is not usable"), remedy)


def _locate(loc: tuple[str | int, ...]) -> tuple[type[Table], str]:
    """The table an error is in, and its key there."""
    table: type[Table] = Config
    key = ""
    parts: Iterator[str | int] = iter(loc)
    for part in parts:
        key = str(part)
        field = table.model_fields.get(key)
        inner = table_of(field.annotation) if field else None
        if field is None or inner is None:
            break
        if (is_named(field) or is_list(field)) and next(parts, None) is None:
            break
        table = inner
    return table, key


def _example(loc: tuple[str | int, ...], table: type[Table], key: str) -> str:
    field = table.model_fields.get(key)
    if field and field.examples:
        return f"write it like this: {key} = {to_toml(field.examples[0])}"
    name = dotted(part for part in loc if isinstance(part, str))
    return f"see [{name}] in docs/configuration.md"


def to_toml(value: Any) -> str:
    """A key's value as TOML has it on one line."""
    if isinstance(value, dict) and value:
        return "{ " + ", ".join(f"{dotted([k])} = {to_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    # JSON's strings, numbers and booleans are TOML's too.
    return json.dumps(value, ensure_ascii=False)
