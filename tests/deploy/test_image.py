"""The image is what a restricted pod may run, made of pinned files; `make image-check` takes its steps."""

import re
import tomllib
from importlib.metadata import version

import pytest

from tests.deploy.dockerfile import ROOT, stages, the

BUILD, FINAL = stages()
PINNED = re.compile(
    r"^([\w.-]+)==(\S+)((?: ; [^\\]+)?) \\((?:\n +--hash=sha256:[0-9a-f]{64}(?: \\)?)+)\n", re.M
)


def pinned(name: str) -> dict[str, str]:
    """The versions in a file of requirements, of which each has its hashes."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    assert PINNED.sub("", text) == "", "nothing but pinned distributions: no index, no address"
    return {found[1]: found[2] for found in PINNED.finditer(text)}


def test_it_runs_as_a_number_and_not_as_root() -> None:
    user, _, group = the(FINAL, "USER").text.partition(":")
    assert int(user) >= 10_000
    assert int(group) >= 10_000
    assert [step.instruction for step in FINAL].index("USER") > [step.instruction for step in FINAL].index(
        "COPY"
    )


def test_the_page_has_its_steps_for_machines_without_an_engine() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    [steps] = re.findall(r"```sh\n(python -m venv .*?)```", page, re.S)
    said = steps.splitlines()
    assert said == [step.text for step in BUILD if step.instruction == "RUN"][: len(said)]
    assert len(said) == 6


def test_what_builds_it_is_not_in_it() -> None:
    assert the(FINAL, "FROM").text == the(BUILD, "FROM").text.removesuffix(" AS build")
    assert the(FINAL, "COPY").words == ["--from=build", "/opt/tokenvault", "/opt/tokenvault"]
    assert "RUN" not in {step.instruction for step in FINAL}


def test_it_serves_the_mounted_configuration() -> None:
    assert the(FINAL, "ENTRYPOINT").array == ["tokenvault"]
    assert the(FINAL, "CMD").array == ["serve", "--config", "/etc/tokenvault/tokenvault.toml"]
    assert the(FINAL, "ENV").pairs["PATH"].startswith("/opt/tokenvault/bin:")


def test_its_labels_are_those_of_what_is_in_it() -> None:
    project = tomllib.loads((ROOT / "vault" / "pyproject.toml").read_text())["project"]
    labels = the(FINAL, "LABEL").pairs
    assert labels == {
        f"org.opencontainers.image.{label}": value
        for label, value in {
            "title": project["name"],
            "description": project["description"],
            "version": project["version"],
            "licenses": project["license"],
        }.items()
    }


def test_nothing_is_installed_but_by_its_hash_or_from_here() -> None:
    installs = [step.text for step in BUILD if " install " in step.text]
    assert len(installs) == 3
    for command in installs:
        assert ("--require-hashes --only-binary :all:" in command) != ("--no-deps --no-index" in command)


@pytest.mark.parametrize("name", ["runtime", "build"])
def test_it_holds_the_versions_that_are_tested(name: str) -> None:
    assert pinned(name).items() <= pinned("dev").items()


def test_it_holds_all_that_the_distributions_need() -> None:
    names = {
        re.split(r"[<>=~\[]", requirement)[0]
        for project in ("vault", "client/python")
        for requirement in tomllib.loads((ROOT / project / "pyproject.toml").read_text())["project"][
            "dependencies"
        ]
    }
    missing = names - {"tokenvault"} - set(pinned("runtime"))
    assert not missing, "run `make lock`"
    assert pinned("runtime")["grpcio"] == version("grpcio")
