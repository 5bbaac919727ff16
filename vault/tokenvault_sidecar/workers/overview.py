"""The workers as one: whether all are ready, and their figures added up."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, ProcessCollector
from starlette.routing import Route

from tokenvault_sidecar.ops.readiness import STOPPING
from tokenvault_sidecar.ops.server import figures, probes
from tokenvault_sidecar.ops.sums import Family, Figures, Labels, Total, counted, from_json, read, total
from tokenvault_sidecar.workers.process import WorkerProcess

LOOK_EVERY: Final = 5.0
"""Seconds between two looks that nobody asked for: what a worker counted after the last is lost with it."""

_TO_ANSWER: Final = 3.0
"""Seconds a worker has: its own checks take two at most."""

_TO_COUNT: Final = 8.0
"""Seconds it has for its figures, of which the stock is to be counted."""


class Place(Protocol):
    """Where one worker is, or the next will be."""

    @property
    def number(self) -> int:
        """From 1."""

    @property
    def process(self) -> WorkerProcess | None:
        """Who is there now and serves."""

    @property
    def trouble(self) -> str:
        """Why nobody is, in words for an operator."""


class Overview:
    """Of these workers; `stopping` is to be set when they are."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = places
        self._last: dict[WorkerProcess, Figures] = {}
        self._departed: Figures = []
        self._complete = False
        self._own = CollectorRegistry()
        ProcessCollector(registry=self._own)
        self._restarts = Counter(
            "tokenvault_worker_restarts",
            "Workers that ended and were started again.",
            registry=self._own,
        )
        self._registry = CollectorRegistry()
        Total(self._registry, self._parts)
        self.stopping = False

    @property
    def routes(self) -> list[Route]:
        """The same as of a single process."""
        return [*probes(self.problems, self.silent), figures(self._registry, self.look)]

    async def problems(self) -> Mapping[str, str]:
        """What keeps which worker from serving calls."""
        if self.stopping:
            return STOPPING
        found = {}
        for place, said in await self._ask_all("problems"):
            name = f"worker {place.number}"
            if said is None:
                found[name] = place.trouble if place.process is None else "no answer"
            else:
                found |= {f"{name}: {check}": why for check, why in said.items()}
        return found

    async def silent(self) -> Mapping[str, str]:
        """Workers that run and answer nothing. Those that do not run are started again by us."""
        answers = await self._ask_all("alive")
        return {
            f"worker {place.number}": "no answer"
            for place, said in answers
            if said is None and place.process is not None
        }

    async def look(self, *, stock: bool = True) -> None:
        """Take the workers' figures; with `stock`, one of them counts what the store holds."""
        asked = [place.process for place in self._places if place.process]
        told = await asyncio.gather(
            *(self._figures_of(process, stock=stock and process is asked[0]) for process in asked)
        )
        self._complete = len(asked) == len(self._places) and all(told)

    async def watch(self) -> None:
        """Look every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            await self.look(stock=False)

    def departed(self, process: WorkerProcess) -> None:
        """It has ended. What it counted stays counted."""
        self._departed = total([self._departed, counted(self._last.pop(process, []))])

    def restarted(self) -> None:
        """Another takes its place."""
        self._restarts.inc()

    async def _figures_of(self, process: WorkerProcess, *, stock: bool) -> bool:
        """Take them; whether there were any."""
        said = await process.ask("figures", within=_TO_COUNT, stock=stock)
        if said is None or process.ended.done():
            return False
        self._last[process] = from_json(said)  # at once: others may be waited for, and counters never fall
        return True

    async def _ask_all(self, what: str) -> list[tuple[Place, Mapping[str, str] | None]]:
        async def ask(place: Place) -> Mapping[str, str] | None:
            process = place.process
            return await process.ask(what, within=_TO_ANSWER) if process else None

        return list(zip(self._places, await asyncio.gather(*map(ask, self._places)), strict=True))

    def _parts(self) -> Iterator[Figures]:
        yield read(self._own)
        yield [_ready(complete=self._complete and not self.stopping)]
        yield self._departed
        yield from self._last.values()


def _ready(*, complete: bool) -> Family:
    samples: dict[tuple[str, Labels], float] = {
        ("tokenvault_ready", (("check", "workers"),)): float(complete)
    }
    return Family("tokenvault_ready", "Whether this check lets calls be served.", "gauge", samples=samples)
