"""Tells a demo as it happens: what is done, when, and what came of it."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class NotAsSaid(Exception):
    """Something else happened than was said; the message says what."""


class StepFailed(Exception):
    """A step did not come out as said."""

    def __init__(self, step: str, why: str) -> None:
        super().__init__(f"{step}\n{why}")
        self.step = step
        self.why = why


class Story:
    """Prints to stdout, each line as soon as it is true. No token, code or state belongs in it."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.steps = 0

    @property
    def seconds(self) -> float:
        """Since the story began."""
        return time.monotonic() - self._began

    def say(self, text: str = "") -> None:
        print(text, flush=True)

    @contextmanager
    def step(self, what: str) -> Iterator[Callable[[str], None]]:
        """Print the time and what is done, then what came out: the block hands that to what it was given.

        Raises StepFailed where the block raises anything.
        """
        outcome: list[str] = []
        self.say(f"{self.seconds:6.2f} s  {what}")
        try:
            yield outcome.append
        except NotAsSaid as error:
            raise StepFailed(what, str(error)) from error
        except Exception as error:
            raise StepFailed(what, f"{type(error).__name__}: {error}") from error
        self.steps += 1
        for line in outcome:
            self.say(f"          -> {line}")

    def fail(self, failure: StepFailed) -> None:
        """Say on stderr which step failed and why."""
        sys.stdout.flush()
        print(f"\nNOT AS SAID, after {self.seconds:.1f} s: {failure.step}", file=sys.stderr)
        print(f"  {failure.why}", file=sys.stderr, flush=True)


def expect(condition: object, otherwise: str) -> None:
    """Raise NotAsSaid(otherwise) unless the condition holds."""
    if not condition:
        raise NotAsSaid(otherwise)
