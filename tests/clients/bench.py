"""How often each language's client gives a token from memory, and by RPC: calls a second, one after another.

`python -m tests.clients.bench [LANGUAGE …]`
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.clients.driver import Driver, DriverFailed
from tests.clients.languages import ALL, CannotBuild, NotHere
from tests.clients.stage import BRAND, NotAsExpected, Stage, stage

LIFE = 3600  # of the access tokens: all are fresh to the end

_WARMING = 1.0
_WHOSE = {"brand": BRAND, "consumer": "consumer-of-bench"}
_COLUMNS = ("memory", "rpc")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-clients", description=__doc__)
    names = [language.name for language in ALL]
    parser.add_argument("language", nargs="*", help=f"of {', '.join(names)}; without: all that are here")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each way to ask (%(default)s)")
    options = parser.parse_args()
    if unknown := set(options.language) - set(names):
        parser.error(f"no such language: {', '.join(sorted(unknown))}")
    commands: dict[str, Sequence[str]] = {}
    absent: list[str] = []
    for language in ALL:
        if options.language and language.name not in options.language:
            continue
        try:
            commands[language.name] = language.build()
        except NotHere as problem:
            absent.append(f"{language.name}: {problem}")
        except CannotBuild as problem:
            sys.exit(f"{language.name}: {problem}")
    with tempfile.TemporaryDirectory(prefix="tv-clients-") as folder:
        try:
            found = measured(commands, Path(folder), options.seconds)
        except (DriverFailed, NotAsExpected) as problem:
            sys.exit(f"bench: {problem}")
    print(table(found))
    if absent:
        print(f"did not run: {'; '.join(absent)}")
    return 0 if found else 1


def measured(
    commands: Mapping[str, Sequence[str]], folder: Path, seconds: float
) -> dict[str, dict[str, float]]:
    """Calls a second by language and way, all for one token. Raises DriverFailed, NotAsExpected."""
    found: dict[str, dict[str, float]] = {}
    with stage(folder, access_token_ttl=LIFE) as there:
        for name, command in commands.items():
            with Driver(command, there.environment("bot")) as driver:
                if not found:
                    _delegate(driver, there)
                found[name] = {by: _rate(driver, by, seconds) for by in _COLUMNS}
                driver.finish()
    return found


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    lines = [f"{'calls/s':8}{'from memory':>14}{'by RPC':>10}{'ratio':>10}"]
    for name, of in found.items():
        memory, rpc = (of[by] for by in _COLUMNS)
        lines.append(f"{name:8}{memory:>14,.0f}{rpc:>10,.0f}{memory / rpc:>10,.0f}")
    return "\n".join(lines)


def _delegate(driver: Driver, there: Stage) -> None:
    started = _asked(driver, {"op": "start_delegation", **_WHOSE})
    query = asyncio.run(there.acts["log_in"](by=started))
    _asked(driver, {"op": "complete_delegation", "query": query})


def _rate(driver: Driver, by: str, seconds: float) -> float:
    command = {"op": "bench", "by": by, **_WHOSE}
    _asked(driver, {**command, "seconds": min(_WARMING, seconds)})  # compilers and connections warm up
    answer = _asked(driver, {**command, "seconds": seconds})
    return float(answer["calls"] / answer["seconds"])


def _asked(driver: Driver, command: Mapping[str, Any]) -> Mapping[str, Any]:
    answer = driver.ask(command)
    if "ok" not in answer:
        raise NotAsExpected(f"{command['op']}: {answer['error']['family']}")
    ok: Mapping[str, Any] = answer["ok"]
    return ok


if __name__ == "__main__":
    sys.exit(main())
