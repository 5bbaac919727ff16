"""Generates what of client/go is generated, or checks it; without Go and its plugins it says so."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

from tests.tools.generate import PROTO

MODULE = "tokenvault.example/client/go"
HOME = Path("client/go/tokenvault")
SERVICE_CONFIG = "token_vault_grpc_service_config.json"
TOOLS = Path("build/go-tools")
PLUGINS = {
    "protoc-gen-go": "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12",
    "protoc-gen-go-grpc": "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2",
}


def go(*arguments: str, cwd: Path | None = None, **environment: str) -> None:
    """Run the go command. Raises CalledProcessError."""
    # no version-control stamps: a checkout may be another user's
    subprocess.run(
        ["go", *arguments], cwd=cwd, check=True, env=os.environ | {"GOFLAGS": "-buildvcs=false"} | environment
    )


def without() -> str | None:
    """What it takes and is not here."""
    if not shutil.which("go"):
        return "there is no go here"
    try:
        install_plugins()
    except subprocess.CalledProcessError:
        return "go cannot install protoc's plugins here"
    return None


def install_plugins() -> None:
    for name, where in PLUGINS.items():
        kept = TOOLS / where.rpartition("@")[2] / name
        if not kept.exists():
            go("install", where, GOBIN=str(kept.parent.resolve()))


def generate(out: Path) -> None:
    """Into `out`, laid out as in client/go/tokenvault."""
    plugins = [
        f"--plugin={name}={TOOLS / where.rpartition('@')[2] / name}" for name, where in PLUGINS.items()
    ]
    protos = sorted(str(p.relative_to(PROTO)) for p in PROTO.rglob("*.proto"))
    include = [f"-I{PROTO}", f"-I{files('grpc_tools') / '_proto'}"]
    module = f"module={MODULE}/tokenvault"
    outs = [f"--go_out={out}", f"--go_opt={module}", f"--go-grpc_out={out}", f"--go-grpc_opt={module}"]
    if protoc.main(["protoc", *include, *plugins, *outs, *protos]):
        sys.exit("protoc failed; what it printed above says where")
    [config] = PROTO.rglob(SERVICE_CONFIG)  # a module embeds only what is in it
    shutil.copyfile(config, out / SERVICE_CONFIG)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail when stale")
    check = parser.parse_args().check
    if missing := without():
        print(f"NOT {'checked' if check else 'generated'}: what of {HOME} is, for {missing}")
        return
    with tempfile.TemporaryDirectory() as tmp:
        fresh = Path(tmp)
        generate(fresh)
        new = {p.relative_to(fresh): p.read_bytes() for p in fresh.rglob("*") if p.is_file()}
        kept = [*HOME.glob("v1/*.pb.go"), HOME / SERVICE_CONFIG]
        old = {p.relative_to(HOME): p.read_bytes() for p in kept if p.exists()}
        if check:
            stale = sorted(str(p) for p in new.keys() | old.keys() if new.get(p) != old.get(p))
            if stale:
                sys.exit(f"stale in {HOME}, run 'make gen': {', '.join(stale)}")
            print(f"{len(new)} generated files in {HOME} are current")
            return
        for path in old:
            (HOME / path).unlink()
        for path, content in new.items():
            (HOME / path).parent.mkdir(exist_ok=True)
            (HOME / path).write_bytes(content)
        print(f"{len(new)} generated files written to {HOME}")


if __name__ == "__main__":
    main()
