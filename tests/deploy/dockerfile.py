"""The Dockerfile as steps, so that what is run without a container engine is what it says."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction; `text` is all behind its name, on one line."""

    instruction: str
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)

    @property
    def pairs(self) -> dict[str, str]:
        """Of ENV and LABEL."""
        return dict(word.split("=", 1) for word in self.words)

    @property
    def array(self) -> list[str]:
        """Of ENTRYPOINT and CMD."""
        words = json.loads(self.text)
        assert isinstance(words, list)
        return words


def stages(file: Path = DOCKERFILE) -> list[list[Step]]:
    """The steps of each stage, its FROM first."""
    text = file.read_text(encoding="utf-8").replace("\\\n", "")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found: list[list[Step]] = []
    for line in lines:
        step = Step(*line.split(maxsplit=1))
        if step.instruction == "FROM":
            found.append([])
        if found:  # an ARG before the first FROM belongs to none
            found[-1].append(step)
    return found


def the(stage: Sequence[Step], instruction: str) -> Step:
    """The only step of this kind."""
    [step] = [step for step in stage if step.instruction == instruction]
    return step
