"""Copies proto/ into client/node, for its package, or checks the copy."""

import argparse
import shutil
import sys
from pathlib import Path

from tests.tools.generate import PROTO

COPY = Path("client/node/proto")


def contents(folder: Path) -> dict[Path, bytes]:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("tokenvault/**/*") if p.is_file()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail when the copy is stale")
    if parser.parse_args().check:
        if contents(COPY) == contents(PROTO):
            return 0
        print(f"stale: {COPY}; run `make gen`", file=sys.stderr)
        return 1
    shutil.rmtree(COPY, ignore_errors=True)
    for path, content in contents(PROTO).items():
        (COPY / path).parent.mkdir(parents=True, exist_ok=True)
        (COPY / path).write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
