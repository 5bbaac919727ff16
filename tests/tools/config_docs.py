"""Writes the generated parts of docs/configuration.md, or checks that they are current."""

import argparse
import re
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo

from tokenvault_sidecar.config import Config, callback, files, kek_uri, store, to_toml, values
from tokenvault_sidecar.config.tables import Table, is_list, is_named, table_of
from tokenvault_sidecar.devkit import render_config

DOCUMENT = Path("docs/configuration.md")

# By identity of meaning, not of shape: what a person is to write.
_NAMES: tuple[tuple[Any, str], ...] = (
    (values.Duration, "duration"),
    (values.Flag, "boolean"),
    (values.Url, "URL"),
    (values.Issuer, "URL"),
    (values.ListenAddress, "address"),
    (values.TcpAddress, "address"),
    (values.Identity, "identity"),
    (values.Scope, "scope"),
    (files.OutputPath, "path"),
    (files.File, "path"),
    (files.PrivateFilePath, "path"),
    (files.KekFilePath, "path"),
    (kek_uri.KekUri, "URI"),
    (store.DatabaseUrl, "URL"),
    (files.SecretFilePath, "path"),
    (files.SigningKeyFilePath, "path"),
    (files.JwksFilePath, "path"),
    (callback.Logo, "path"),
    (str, "string"),
    (float, "number"),
    (int, "integer"),
)
_PLURALS = {"address": "addresses", "identity": "identities"}
_PLACEHOLDERS = {"brands": "ID", "callers": "NAME"}


def tables(table: type[Table] = Config, name: str = "") -> Iterator[tuple[str, type[Table]]]:
    """All tables, by their headers in TOML; the file's top level has an empty one."""
    yield name, table
    for key, field in table.model_fields.items():
        if inner := table_of(field.annotation):
            child = f"{name.strip('[]')}.{key}".lstrip(".")
            child += f".{_PLACEHOLDERS[key]}" if is_named(field) else ""
            yield from tables(inner, f"[[{child}]]" if is_list(field) else f"[{child}]")


def type_name(hint: Any) -> str:
    """What to write for a field of this type."""
    for known, name in _NAMES:
        if hint == known:
            return name
    arguments = [a for a in get_args(hint) if a is not NoneType]
    match get_origin(hint):
        case origin if origin in (Union, UnionType) or origin is Annotated:
            return type_name(arguments[0])
        case origin if origin is tuple:
            inner = type_name(arguments[0])
            return f"list of {_PLURALS.get(inner, inner if '`' in inner else f'{inner}s')}"
        case origin if origin is Literal:
            return _one_of(arguments)
        case origin if origin is dict:
            return f"table of {type_name(arguments[1])}s"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _one_of([member.value for member in hint])
    raise TypeError(f"no name for {hint}: add one to {__name__}")


def default_of(field: FieldInfo, type_said: str) -> str:
    """The default as one would write it; – where leaving the key out is not the same as any value."""
    if field.is_required():
        return "required"
    if field.default is None:
        return "–"
    value = values.format_duration(field.default) if type_said == "duration" else field.default
    return f"`{to_toml(value)}`"


def rows(table: type[Table]) -> Iterator[tuple[str, str, str, str, str]]:
    """Key, type, default, meaning and example of each of the table's own keys."""
    hints = get_type_hints(table, include_extras=True)
    for key, field in table.model_fields.items():
        if not table_of(field.annotation):
            said = type_name(hints[key])
            example = f"`{to_toml((field.examples or [''])[0])}`"
            yield f"`{key}`", said, default_of(field, said), field.description or "", example


def reference() -> str:
    """A section for each table."""
    parts = []
    for name, table in tables():
        parts.append(f"### `{name}`" if name else "### The top of the file")
        if name:
            parts.append(_paragraphs(table.__doc__ or ""))
        if body := list(rows(table)):
            head = ["| key | type | default | meaning | example |", "|---|---|---|---|---|"]
            parts.append("\n".join([*head, *(f"| {' | '.join(row)} |" for row in body)]))
    return "\n\n".join(parts)


def rewritten(text: str) -> str:
    """The document with its marked regions as they should be."""
    contents = {"reference": reference(), "example": f"```toml\n{render_config()}```"}
    for region, content in contents.items():
        begin, end = f"<!-- generated: {region} -->\n", "<!-- end -->"
        before, found, after = text.partition(begin)
        _, closed, rest = after.partition(end)
        if not found or not closed:
            sys.exit(f"{DOCUMENT} has no region '{region}': write {begin.strip()} and {end}")
        text = f"{before}{begin}\n{content}\n\n{end}{rest}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail when stale")
    check = parser.parse_args().check
    old = DOCUMENT.read_text(encoding="utf-8")
    new = rewritten(old)
    if check and new != old:
        sys.exit(f"{DOCUMENT} is stale, run 'make gen'")
    if not check:
        DOCUMENT.write_text(new, encoding="utf-8")
    print(f"{DOCUMENT} is current" if check else f"{DOCUMENT} written")


def _one_of(members: list[Any]) -> str:
    return ", ".join(f"`{to_toml(m)}`" for m in members)


def _paragraphs(docstring: str) -> str:
    paragraphs = re.split(r"\n\s*\n", docstring.strip())
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


if __name__ == "__main__":
    main()
