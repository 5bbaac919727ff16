"""`make image-check`: the Dockerfile's build steps without a container engine, and what they made, serving.

As an unprivileged user, the whole file system read-only but for the folder
that stands for the image's root; where this machine does not allow that, it
says so and does without.
"""

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.access.confined import confined, hand_over, open_folder
from tests.deploy.dockerfile import stages, the
from tests.deploy.image import ImageBuild
from tests.e2e.vaults import connect
from tests.running import SidecarProcess
from tokenvault import GrantNotFound
from tokenvault_sidecar import devkit


def unprivileged(*, data: Path, read_only: Path) -> tuple[str, ...]:
    """What makes a command nobody's, on a read-only root; nothing where that cannot be."""
    try:
        return confined(data=data, read_only=read_only)
    except pytest.skip.Exception as why:
        print(f"DID NOT RUN: as another user on a read-only root ({why})")
        return ()


def main() -> None:
    build, final = stages()
    with open_folder() as folder:
        root, data = folder / "root", folder / "data"
        for place in (root, data):
            place.mkdir(mode=0o755)
        prefix = unprivileged(data=root, read_only=data)
        image = ImageBuild(root, prefix)
        for step in build:
            print(f"{step.instruction} {step.text}", flush=True)
            if prefix:
                hand_over(root)
            image.take(step)
        only_what_the_final_stage_copies(root, the(final, "COPY").words)
        asyncio.run(serves(folder, the(final, "ENTRYPOINT").array[0]))
    print("the image's build steps were taken, and what they made serves, stops, and writes nothing else")


def only_what_the_final_stage_copies(root: Path, words: list[str]) -> None:
    option, source, target = words
    # An environment knows the path it was made at: it must arrive where it was built.
    assert (option, source) == ("--from=build", target), words
    for other in ("build", "tmp"):  # `bin` is the base image's
        shutil.rmtree(root / other)
    size = sum(file.lstat().st_size for file in (root / "opt").rglob("*"))
    print(f"{source}: {size / 1e6:.0f} MB")
    assert size < 200e6, "the image has grown: look at what is in it"
    assert not list((root / "opt").glob("**/site-packages/pip")), "pip has no place in the image"


async def serves(folder: Path, entrypoint: str) -> None:
    """A sidecar of the image's own command, on which nothing but `data` can be written."""
    command = folder / "root" / "opt" / "tokenvault" / "bin" / entrypoint
    config = devkit.init(
        folder / "data" / "vault",
        devkit.Development(
            issuer="https://login.invalid",
            listen=("127.0.0.1:0",),
            ops_listen="127.0.0.1:0",
            callback_listen="127.0.0.1:0",
        ),
    )[-1]
    prefix = unprivileged(data=folder / "data", read_only=folder / "root")
    if prefix:
        hand_over(folder / "data")
    check_config(prefix, command, config)
    # In the place of the workspace's own interpreter and module: "$@" is what follows those.
    as_command = ("sh", "-c", 'shift 4; exec "$0" "$@"', str(command))
    sidecar = SidecarProcess(config, logs=folder, prefix=(*prefix, *as_command))
    await asyncio.to_thread(sidecar.start)
    async with connect(sidecar) as bot:
        try:
            await bot.get_token("acme", consumer="c-1")
            sys.exit("a token from nowhere")
        except GrantNotFound:
            pass
    assert await asyncio.to_thread(sidecar.stop) == 0


def check_config(prefix: tuple[str, ...], command: Path, config: Path) -> None:
    said = subprocess.run(
        [*prefix, command, "check-config", config], check=True, capture_output=True, text=True
    )
    assert "is in order" in said.stdout, said


if __name__ == "__main__":
    main()
