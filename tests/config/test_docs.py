"""docs/configuration.md says what the code does: every key, its type and default, and examples that load."""

import re
import tomllib
from pathlib import Path
from typing import get_type_hints

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydantic import TypeAdapter

from tests.config.documents import Document
from tests.tools.config_docs import DOCUMENT, rewritten, tables
from tokenvault_sidecar.config import load_config
from tokenvault_sidecar.config.tables import Table, table_of

TEXT = (Path(__file__).parents[2] / DOCUMENT).read_text(encoding="utf-8")
BLOCKS = re.findall(r"```toml\n(.*?)```", TEXT, re.S)


def documented() -> dict[str, dict[str, list[str]]]:
    """Table header to key to the other cells, read from the document."""
    found: dict[str, dict[str, list[str]]] = {}
    for section in re.split(r"^### ", TEXT, flags=re.M)[1:]:
        header = re.match(r"`(.*)`|.*", section)
        assert header
        cells = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
        found[header[1] or ""] = {row[0].strip("`"): row[1:] for row in cells}
    return found


def test_the_document_is_current() -> None:
    assert rewritten(TEXT) == TEXT, "run 'make gen'"


def test_every_key_is_there_and_no_other() -> None:
    expected = {
        name: {key for key, field in table.model_fields.items() if not table_of(field.annotation)}
        for name, table in tables()
    }
    assert {name: set(rows) for name, rows in documented().items()} == expected


@pytest.mark.parametrize(
    ("table", "key", "kind", "default"),
    [
        ("", "development", "boolean", "`false`"),
        ("[server]", "listen", "list of addresses", "required"),
        ("[server]", "drain_timeout", "duration", '`"30s"`'),
        ("[brands.ID]", "jwks_uri", "URL", "–"),
        ("[brands.ID]", "redirect_uris", "list of URLs", "required"),
        ("[brands.ID]", "authorization_parameters", "table of strings", "`{}`"),
        ("[brands.ID.consumer]", "session_absolute", "duration", '`"12h"`'),
        ("[[callers.NAME.allow]]", "contexts", 'list of `"consumer"`, `"conversation"`', "required"),
        ("[[callers.NAME.allow]]", "scopes", "list of strings", '`["*"]`'),
    ],
)
def test_types_and_defaults_read_well(table: str, key: str, kind: str, default: str) -> None:
    assert documented()[table][key][:2] == [kind, default]


def lay_out(document: Document) -> None:
    """The files that examples name."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for name in ("northwind", "acme"):
        document.file(f"secrets/{name}-client-key.pem", pem)
    document.file("secrets/acme-client-secret", "fixture\n")
    document.file("acme-ca.pem", (document.folder / "ca.pem").read_text())
    document.file("acme-jwks.json", '{"keys": [{"kty": "EC", "crv": "P-256", "x": "eA", "y": "eQ"}]}')
    for name in ("callback.pem", "callback.key.pem", "acme.svg"):
        document.file(name, "fixture\n")
    document.file("database-password", "fixture\n")
    document.file("database-ca.pem", (document.folder / "ca.pem").read_text())
    document.file("old-kek", "A" * 43 + "=\n")


def test_the_whole_example_loads(document: Document) -> None:
    document.path.write_text(BLOCKS[0])
    load_config(document.path)


@pytest.mark.parametrize("block", BLOCKS[1:], ids=lambda block: block.splitlines()[0])
def test_the_other_examples_load(document: Document, block: str) -> None:
    lay_out(document)
    for name, content in tomllib.loads(block).items():
        if name in ("brands", "callers"):
            document.content[name] |= content
        else:
            document.content[name] = content
    document.load()


@pytest.mark.parametrize(
    ("table", "key"),
    [
        pytest.param(table, key, id=f"{name} {key}")
        for name, table in tables()
        for key, field in table.model_fields.items()
        if not table_of(field.annotation)
    ],
)
def test_a_keys_example_is_valid_and_its_meaning_said(
    document: Document, table: type[Table], key: str
) -> None:
    lay_out(document)
    field = table.model_fields[key]
    assert field.description
    assert field.description.endswith(".")
    assert field.examples
    hint = get_type_hints(table, include_extras=True)[key]
    adapter: TypeAdapter[object] = TypeAdapter(hint)
    adapter.validate_python(field.examples[0], context=document.folder)
