"""Generates the Python stubs from proto/, its service config beside them, or checks that all is current."""

import argparse
import filecmp
import os
import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

PROTO = Path("proto")
PACKAGE = Path("tokenvault/v1")


def generate(out: Path) -> None:
    protos = sorted(str(p.relative_to(PROTO)) for p in PROTO.rglob("*.proto"))
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # the plugins
    code = protoc.main(
        [
            "protoc",
            f"-I{PROTO}",
            f"-I{files('grpc_tools') / '_proto'}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_out=readable_stubs:{out}",
            f"--mypy_grpc_out=readable_stubs:{out}",
            *protos,
        ]
    )
    if code:
        sys.exit("protoc failed; what it printed above says where")
    for config in PROTO.rglob("*_grpc_service_config.json"):
        shutil.copy(config, out / config.relative_to(PROTO))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail when stale")
    parser.add_argument("out", type=Path, help="folder that holds tokenvault/v1")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        fresh, kept = Path(tmp) / PACKAGE, args.out / PACKAGE
        generate(Path(tmp))
        names = {p.name for p in fresh.iterdir()} | {p.name for p in kept.glob("*_pb2*")}
        _, differ, missing = filecmp.cmpfiles(fresh, kept, names, shallow=False)
        stale = differ + missing
        if args.check:
            if stale:
                sys.exit(f"stale stubs, run 'make gen': {', '.join(sorted(stale))}")
            print(f"{len(names)} stubs in {kept} are current")
            return
        for path in kept.glob("*_pb2*"):
            path.unlink()
        for path in fresh.iterdir():
            shutil.copy(path, kept / path.name)
        print(f"{len(names)} stubs written to {kept}")


if __name__ == "__main__":
    main()
