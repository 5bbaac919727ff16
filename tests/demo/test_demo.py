"""The demo, run as a person runs it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.demo.__main__ import perform
from tests.demo.stage import fresh_stage
from tests.demo.story import StepFailed, Story, expect

COMMAND = [sys.executable, "-m", "tests.demo"]

STEPS = {
    "The brand's authorization server starts: oidc-provider, a real one.": "http://127.0.0.1:",
    "A development folder is made, as by `tokenvault init`.": "a certificate each",
    "The sidecar starts: `tokenvault serve --config tokenvault.toml`.": "127.0.0.1:",
    "The bot asks the sidecar for this conversation's token.": "Alice must be asked (GrantNotFound)",
    "The bot asks for a link and shows it to Alice.": "with state, nonce and PKCE",
    "Alice follows it in her browser, logs in at the brand and agrees.": "You are logged in",
    "The bot, which was waiting for what becomes of the link, is told.": "openid and profile were granted",
    "The bot takes the token and calls the brand's API with it.": "the brand's API answers 200, for alice",
    "Somebody hands over the same answer once more.": "refused: it worked once (StateNotFound)",
    "The bot asks for the token in another conversation": "nothing there",
    "The bot shows her a link, she logs in and agrees": "kept under her consumer id",
    "The bot calls the brand's API with her token.": "the brand's API answers 200, for alice",
    "Alice starts another conversation, with another bot process.": "no login needed",
    "The brand service asks for the consumer's token.": "it may: the brand's API answers 200, for alice",
    "The brand service asks for the conversation's token.": "(PolicyDenied)",
    "A stranger claims to be the bot, with a certificate of another authority.": "(VaultUnreachable)",
    "A workload of our own authority calls, but no configuration knows it.": "refused (UnknownCaller)",
    "Both access tokens come to their end.": "the brand's API answers 401 to both",
    "The bot asks for the conversation's token.": "Alice must be asked again",
    "The bot shows Alice a link again, she logs in and agrees.": "a new token: the brand's API answers 200",
    "The bot asks for the consumer's token.": "renewed silently, no login: the brand's API answers 200",
    "5 parts of the bot say at once that the API rejected her token.": "saw its refresh token exactly once",
    "The authorization server's log is read": "each with a refresh token of its own, all answered 200",
    "Somebody reads all that the sidecar has written": "all is sealed",
    "The bot takes her token once more and calls the brand's API.": "the brand's API answers 200, for alice",
    "The bot tells the sidecar to forget her.": "(QUEUED)",
    "The bot calls the brand's API with the old token.": "API answers 401: the token was revoked there",
    "The bot asks for her token.": "there is none (GrantNotFound)",
    "The sidecar is told to stop (SIGTERM).": "ends with status 0",
}
"""What is done, and what is said to come of it, in this order."""


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment with a temporary folder of its own, which must be empty in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    yield {**os.environ, "TMPDIR": str(folder)}
    assert not list(folder.iterdir())


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pids(told: str) -> list[int]:
    return [int(pid) for pid in re.findall(r"process (\d+)", told)]


def test_every_step_comes_out_as_said(temporary: dict[str, str]) -> None:
    done = subprocess.run(
        COMMAND, env=temporary, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    told = re.findall(r"^ *\d+\.\d\d s  (.*)\n((?: +-> .*\n)+)", done.stdout, re.MULTILINE)
    assert len(told) == len(STEPS)
    for (step, outcome), (said_step, said_outcome) in zip(told, STEPS.items(), strict=True):
        assert step.startswith(said_step)
        assert said_outcome in outcome
    assert f"All {len(STEPS)} steps came out as said" in done.stdout
    assert len(pids(done.stdout)) == 2
    assert not any(map(is_running, pids(done.stdout)))


def test_a_step_that_comes_out_otherwise_is_named() -> None:
    story = Story()
    with fresh_stage(story) as stage:
        stage.provider.fault_token_endpoint(status=503)
        with pytest.raises(StepFailed) as caught:
            perform(stage, story)
    assert caught.value.step == "Alice follows it in her browser, logs in at the brand and agrees."
    assert caught.value.why.startswith("the page says something else")


def test_a_wrong_outcome_is_a_failure_too() -> None:
    story = Story()
    with pytest.raises(StepFailed, match="something else"), story.step("Something is done."):
        expect(len("x") == 2, "something else came out")
    assert story.steps == 0


def test_a_demo_that_fails_exits_non_zero_and_cleans_up(temporary: dict[str, str]) -> None:
    """Its sidecar is killed as soon as it is up."""
    with subprocess.Popen(
        COMMAND, env=temporary, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        told = ""
        for line in demo.stdout:
            told += line
            if "mutual TLS only" in line:
                os.kill(pids(line)[0], signal.SIGKILL)
        _, complaint = demo.communicate(timeout=100)
    assert demo.returncode == 1
    assert "NOT AS SAID" in complaint
    assert "Traceback" not in complaint
    assert "came out as said" not in told
    assert not any(map(is_running, pids(told)))


def test_an_interrupted_demo_cleans_up(temporary: dict[str, str]) -> None:
    with subprocess.Popen(
        COMMAND, env=temporary, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        told = ""
        for line in demo.stdout:
            told += line
            if "come to their end" in line:
                demo.send_signal(signal.SIGTERM)
        _, complaint = demo.communicate(timeout=100)
    assert demo.returncode == 130
    assert "Traceback" not in complaint
    assert not any(map(is_running, pids(told)))
