"""Two servers under the same load by turns, and what one costs against the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from tests.bench.load import CONNECTIONS, Round, Seen
from tests.bench.processes import LoadProcess, Server


@dataclass(frozen=True)
class Subject:
    """One side of a comparison. `grants`: as in `Round`."""

    name: str
    server: Server
    method: str
    grants: int | None = None
    workers: int = 1


@dataclass(frozen=True)
class Plan:
    """How many rounds of each side, each of how many seconds, on how many connections.

    `rate`: as in `Round`, but of each of a side's `workers`.
    """

    rounds: int
    seconds: float
    rate: float | None
    connections: int = CONNECTIONS


@dataclass(frozen=True)
class Sample:
    """One round of one side: what the load saw, and the CPU time of server and load, in seconds."""

    seen: Seen
    cpu: float
    load_cpu: float

    @property
    def cpu_per_call(self) -> float:
        return self.cpu / self.seen.calls


@dataclass(frozen=True)
class Figures:
    """One side's medians over its rounds. Microseconds, calls a second, bytes."""

    name: str
    cpu_us: float
    load_cpu_us: float
    calls_per_second: float
    p50_us: float
    p99_us: float
    answer_bytes: int
    calls: int


@dataclass(frozen=True)
class Comparison:
    """A subject against its base; `ratio` is of CPU time a call, the median over pairs of rounds."""

    plan: Plan
    subject: Figures
    base: Figures
    ratio: float
    ratios: tuple[float, ...]
    aim: float


def compare(
    subject: Subject,
    base: Subject,
    load: LoadProcess,
    plan: Plan,
    *,
    aim: float,
    progress: Callable[[int, float], None],
) -> Comparison:
    """Rounds by turns, after one of each to warm up.

    What disturbs the machine disturbs both sides of a pair alike, and a
    median over the pairs leaves out the few where it does not.
    """
    pairs: list[tuple[Sample, Sample]] = []
    for number in range(plan.rounds + 1):
        # Each side goes first in every other pair.
        order = (subject, base) if number % 2 else (base, subject)
        samples = {side.name: _sample(side, load, plan) for side in order}
        if number:
            pairs.append((samples[subject.name], samples[base.name]))
            progress(number, _ratio(pairs[-1]))
    ratios = tuple(map(_ratio, pairs))
    return Comparison(
        plan=plan,
        subject=_figures(subject.name, [ours for ours, _ in pairs]),
        base=_figures(base.name, [theirs for _, theirs in pairs]),
        ratio=median(ratios),
        ratios=ratios,
        aim=aim,
    )


def _sample(side: Subject, load: LoadProcess, plan: Plan) -> Sample:
    server_before, load_before = side.server.cpu(), load.cpu()
    seen = load.run(
        Round(
            side.server.address,
            side.method,
            plan.seconds,
            plan.rate and plan.rate * side.workers,
            side.grants,
            plan.connections,
        )
    )
    return Sample(seen, side.server.cpu() - server_before, load.cpu() - load_before)


def _ratio(pair: tuple[Sample, Sample]) -> float:
    ours, theirs = pair
    return ours.cpu_per_call / theirs.cpu_per_call


def _figures(name: str, samples: Sequence[Sample]) -> Figures:
    return Figures(
        name=name,
        cpu_us=median(sample.cpu_per_call for sample in samples) * 1e6,
        load_cpu_us=median(sample.load_cpu / sample.seen.calls for sample in samples) * 1e6,
        calls_per_second=median(sample.seen.calls / sample.seen.seconds for sample in samples),
        p50_us=median(sample.seen.p50 for sample in samples) * 1e6,
        p99_us=median(sample.seen.p99 for sample in samples) * 1e6,
        answer_bytes=max(sample.seen.answer_bytes for sample in samples),
        calls=sum(sample.seen.calls for sample in samples),
    )
