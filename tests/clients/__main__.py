"""Every language's client plays the same scenario: a table of language × step, all green or status 1.

They play at the same time, each on a stage of its own: most of it is waiting.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.clients.languages import ALL, CannotBuild, Language, NotHere
from tests.clients.scenario import STEPS, Play
from tests.clients.stage import stage

_SIGNS = {"ok": "✓", "–": "–"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make test-clients", description=__doc__)
    names = [language.name for language in ALL]
    parser.add_argument("language", nargs="*", help=f"of {', '.join(names)}; without: all that are here")
    wanted = parser.parse_args().language
    if unknown := set(wanted) - set(names):
        parser.error(f"no such language: {', '.join(sorted(unknown))}")
    results: dict[str, Mapping[str, str]] = {}
    failures: list[str] = []
    absent: list[str] = []
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="tv-clients-") as folder,
        ThreadPoolExecutor(len(ALL)) as players,
    ):
        playing = {
            language.name: players.submit(played, language, Path(folder) / language.name)
            for language in ALL
            if not wanted or language.name in wanted
        }
        for name, play in playing.items():
            try:
                results[name] = play.result()
            except NotHere as problem:
                (failures if wanted else absent).append(f"{name}: {problem}")
                continue
            except CannotBuild as problem:
                failures.append(f"{name}: {problem}")
                continue
            failures += [
                f"{name}: {step}: {outcome}"
                for step, outcome in results[name].items()
                if outcome not in _SIGNS
            ]
    print(f"played in {time.monotonic() - began:.0f} s\n\n{table(results)}")
    for failure in failures:
        print(f"FAILED {failure}", file=sys.stderr)
    if absent:
        print(f"did not run: {'; '.join(absent)}")
    return 1 if failures or not results else 0


def played(language: Language, folder: Path) -> Mapping[str, str]:
    """What came of each step. Raises NotHere, CannotBuild."""
    command = language.build()
    folder.mkdir()
    ids = {
        name: f"{name}-of-{language.name.lower()}"
        for name in ("consumer", "conversation", "another", "third", "fourth")
    }
    with stage(folder) as there:
        play = Play(there, command, ids, language.has_source)
        asyncio.run(play.play())
    return play.outcomes


def table(results: Mapping[str, Mapping[str, str]]) -> str:
    """Steps down, languages across."""
    steps = [*STEPS, "no secret told, ended well"]
    width = max(map(len, steps))
    lines = [f"{'':{width}}  " + "  ".join(results)]
    for step in steps:
        signs = (f"{_SIGNS.get(of[step], '✗'):^{len(name)}}" for name, of in results.items())
        lines.append(f"{step:{width}}  " + "  ".join(signs))
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    sys.exit(main())
