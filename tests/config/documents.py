"""Configurations for tests: the one `tokenvault init` makes, with keys changed."""

import tomllib
from pathlib import Path
from typing import Any

from tokenvault_sidecar import devkit
from tokenvault_sidecar.config import Config, load_config, to_toml

DELETE = object()


class Document:
    """A folder that `tokenvault init` made, and its configuration, to be changed and loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = devkit.init(folder)[-1]
        self.content: dict[str, Any] = tomllib.loads(self.path.read_text())

    def file(self, name: str, text: str, *, mode: int = 0o600) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def set(self, *path: str | int, to: Any) -> None:
        *way, last = path
        table: Any = self.content
        for part in way:
            table = table[part] if isinstance(part, int) else table.setdefault(part, {})
        if to is DELETE:
            del table[last]
        else:
            table[last] = to

    def load(self) -> Config:
        self.path.write_text("".join(f"{key} = {to_toml(value)}\n" for key, value in self.content.items()))
        return load_config(self.path)
