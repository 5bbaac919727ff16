"""A process that calls GetToken as often as it can: `… -m tests.fuzz.flood ADDRESS FOLDER CALLER AT_ONCE`.

Prints what became of its calls, as JSON, once its stdin ends.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path

from tests.running import caller_files
from tokenvault import AsyncTokenVaultClient, RateLimited


async def flood(address: str, folder: Path, caller: str, at_once: int) -> None:
    outcomes = Counter({"served": 0, "refused": 0})
    waits: list[float] = []
    begun = time.monotonic()

    async def work() -> None:
        while True:
            try:
                await vault.get_token("acme", consumer="alice")
                outcomes["served"] += 1
            except RateLimited as refused:
                outcomes["refused"] += 1
                waits.append(refused.retry_after or 0.0)

    async with AsyncTokenVaultClient(address, **caller_files(folder, caller)) as vault:
        tasks = [asyncio.create_task(work()) for _ in range(at_once)]
        ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        await asyncio.wait([ended, *tasks], return_when=asyncio.FIRST_COMPLETED)
        seconds = time.monotonic() - begun
        problems = [repr(task.exception()) for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    told = {"seconds": seconds, "least_wait": min(waits, default=None), "problems": problems}
    print(json.dumps({**outcomes, **told}))


if __name__ == "__main__":
    asyncio.run(flood(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
