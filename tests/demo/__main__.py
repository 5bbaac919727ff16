"""The main job, played through for real; with --keep, the same processes for you to call."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path
from types import FrameType

from tests.demo.keep import keep
from tests.demo.play import play
from tests.demo.stage import Stage, fresh_stage, kept_stage
from tests.demo.story import StepFailed, Story

_KEPT = Path("build/run")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def perform(stage: Stage, story: Story) -> None:
    """The play, and what it has shown. Raises StepFailed."""
    asyncio.run(play(stage, story))
    story.say(f"\nAll {story.steps} steps came out as said, in {story.seconds:.1f} seconds:")
    story.say("  - delegated by a login at the brand's own page; the bot never saw a password")
    story.say("  - a conversation's token stayed in it, and was never renewed")
    story.say("  - a consumer's token was shared by her conversations, and renewed once at a time")
    story.say("  - who may read what was decided by certificate and policy; at rest, everything was sealed")
    story.say("  - forgotten means deleted here and revoked there")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep both up until Ctrl-C, and say how to call")
    parser.add_argument("--folder", type=Path, default=_KEPT, help=f"with --keep: where (default: {_KEPT})")
    wanted = parser.parse_args()
    for name in _SIGNALS:
        signal.signal(name, _interrupt)
    story = Story()
    try:
        if wanted.keep:
            with kept_stage(story, wanted.folder) as stage:
                status = keep(stage, story)
            print(f"the sidecar ended by itself, with status {status}", file=sys.stderr)
            return 1
        story.say("Token vault demo. Everything runs on this machine; nothing else is contacted.\n")
        with fresh_stage(story) as stage:
            perform(stage, story)
    except StepFailed as failure:
        story.fail(failure)
        return 1
    except KeyboardInterrupt:
        story.say("stopped")
        return 0 if wanted.keep else 130
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    for name in _SIGNALS:  # once: cleaning up is not to be interrupted
        signal.signal(name, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
