"""Plays scenario.json with one language's driver, and says step by step what came of it."""

import inspect
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.clients.driver import Driver, DriverFailed
from tests.clients.stage import NotAsExpected, Stage

SCENARIO: Mapping[str, Any] = json.loads((Path(__file__).parent / "scenario.json").read_text())
STEPS: Sequence[str] = [step["step"] for step in SCENARIO["steps"]]

_PAUSE = 0.2


@dataclass
class Play:
    """One language's turn. `ids`: a consumer and a conversation of its own."""

    stage: Stage
    command: Sequence[str]
    ids: Mapping[str, str]
    has_source: bool = True
    kept: dict[str, Any] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)
    """By step: "ok", "–" where it was not played, or what went wrong."""

    async def play(self) -> None:
        """Never raises for what the client does; after a step that failed no other is played."""
        self.kept |= {**self.ids, "api": self.stage.api.url}
        with ExitStack() as stack:
            self._stack, self._drivers = stack, dict[str, Driver]()
            for step in SCENARIO["steps"]:
                failed = any(outcome not in ("ok", "–") for outcome in self.outcomes.values())
                played = not failed and (self.has_source or step.get("needs") != "source")
                self.outcomes[step["step"]] = await self._outcome(step) if played else "–"
            self.outcomes["no secret told, ended well"] = self._ending()

    async def _outcome(self, step: Mapping[str, Any]) -> str:
        try:
            for deed in step["do"]:
                if "act" in deed:
                    await self._act(deed)
                elif "begin" in deed:
                    self._driver(deed["as"]).tell({"brand": SCENARIO["brand"]} | self._filled(deed["begin"]))
                elif "end" in deed:
                    self._check(deed, deed["end"], self._driver(deed["as"]).answer())
                else:
                    self._call(deed)
        except (NotAsExpected, DriverFailed, OSError) as problem:
            return str(problem)
        return "ok"

    async def _act(self, deed: Mapping[str, Any]) -> None:
        options = {k: self._filled(v) for k, v in deed.items() if k not in ("act", "keep")}
        came = self.stage.acts[deed["act"]](**options)
        if inspect.isawaitable(came):
            came = await came
        if "keep" in deed:
            self.kept[deed["keep"]] = came

    def _call(self, deed: Mapping[str, Any]) -> None:
        command = {"brand": SCENARIO["brand"]} | self._filled(deed["call"])
        if command["op"] in ("complete_delegation", "confirm_delegation"):
            del command["brand"]
        patient_until = time.monotonic() + deed.get("within", 0)
        while True:
            answer = self._driver(deed["as"]).ask(command)
            if ("error" if "error" in deed else "ok") in answer or time.monotonic() > patient_until:
                break
            time.sleep(_PAUSE)
        self._check(deed, command["op"], answer)

    def _check(self, deed: Mapping[str, Any], op: str, answer: Mapping[str, Any]) -> None:
        kind = "error" if "error" in deed else "ok"
        if kind not in answer:
            told = answer.get("error")
            raise NotAsExpected(f"{op}: {kind} expected, came {told if told else 'ok'}")
        came = answer[kind]
        if "keep" in deed:
            self.kept[deed["keep"]] = came if kind == "ok" else came.get("challenge")
        expected = self._filled(deed[kind])
        if isinstance(expected, list):
            wrong = [name for name in expected if not came.get(name)]
        else:
            wrong = [name for name, value in expected.items() if came.get(name) != value]
        if wrong:
            told = {name: came.get(name) for name in wrong} if kind == "error" else ", ".join(wrong)
            raise NotAsExpected(f"{op}: not as expected: {told}")
        if kind == "error" and (not came.get("text") or self._secrets_in(came["text"])):
            raise NotAsExpected(f"{op}: the error's text is empty or tells a secret")
        if "renewed" in deed and came["token_version"] == self._filled(deed["renewed"])["token_version"]:
            raise NotAsExpected(f"{op}: the token is still the old one")

    def _driver(self, caller: str) -> Driver:
        if caller not in self._drivers:
            driver = Driver(self.command, self.stage.environment(caller))
            self._drivers[caller] = self._stack.enter_context(driver)
        return self._drivers[caller]

    def _ending(self) -> str:
        try:
            for driver in self._drivers.values():
                driver.finish()
                if self._secrets_in(driver.complaints):
                    return "a secret is in its stderr"
        except DriverFailed as problem:
            return str(problem)
        return "ok"

    def _filled(self, value: Any) -> Any:
        """With what was kept in the place of "$name" and "$name.member"."""
        if isinstance(value, Mapping):
            return {name: self._filled(member) for name, member in value.items()}
        if isinstance(value, str) and value.startswith("$"):
            name, _, member = value[1:].partition(".")
            return self.kept[name][member] if member else self.kept[name]
        return value

    def _secrets_in(self, text: str) -> bool:
        return any(secret in text for secret in self._secrets())

    def _secrets(self) -> Iterator[str]:
        for kept in self.kept.values():
            if isinstance(kept, Mapping):
                names = ("access_token", "authorization_url", "code", "confirmation_code", "state")
                yield from (kept[name] for name in names if kept.get(name))
        yield from self.ids.values()
