"""`make rotation`: a data key rotated, and 100,000 grants sealed anew, under 500 calls/s, killed twice."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.bench import vault
from tests.keys.rotating import rotate_under_load
from tokenvault_sidecar.config import load_config


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grants", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--kills", type=int, default=2)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tokenvault-") as folder:
        config = vault.configure(Path(folder) / "vault")
        print(f"storing {wanted.grants:,} grants", flush=True)
        asyncio.run(vault.fill(load_config(config), wanted.grants))
        rotated, load = asyncio.run(
            rotate_under_load(config, consumers=wanted.grants, rate=wanted.rate, kills=wanted.kills)
        )
    print(f"sealed anew in {rotated.seconds:.0f} s, {rotated.runs} runs, killed {rotated.kills} times")
    print(f"{load.served:,} calls served, {load.rate:.0f} a second; {len(load.failed)} failed")
    for failure in load.failed[:5]:
        print(f"  {failure}")
    kept_up = load.rate > 0.9 * wanted.rate
    if not kept_up:
        print(
            f"fewer calls than {wanted.rate:.0f} a second: the machine is too busy for this to show anything"
        )
    return 0 if kept_up and not load.failed and rotated.kills == wanted.kills else 1


if __name__ == "__main__":
    sys.exit(main())
