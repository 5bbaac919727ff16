"""The Helm chart makes what Kustomize makes: with its own values the base, with the example's the example."""

import re
from operator import itemgetter
from pathlib import Path

import pytest
import yaml

from tests.deploy.dockerfile import ROOT
from tests.deploy.helm import CHART, EXAMPLE, HelmMissing, helm
from tests.deploy.manifests import (
    OLDEST,
    Manifest,
    pods,
    reference_faults,
    rendered,
    schema_faults,
    selector_faults,
)
from tests.deploy.mounted import load_mounted
from tests.deploy.restricted import faults

BY_HAND = {"tokenvault-kek", "tokenvault-brands"}
OF_THE_EXAMPLE_ALONE = {("Namespace", "bots"), ("Issuer", "self-signed"), ("Issuer", "tokenvault-ca")}
OF_THE_EXAMPLE_ALONE |= {("Certificate", "tokenvault-ca")}
OF_THE_EXAMPLE_ALONE |= {(kind, "brand-service") for kind in ("Deployment", "Certificate", "NetworkPolicy")}
"""What is not a bot's with its sidecar, and so not the chart's."""

Objects = dict[tuple[str, str], Manifest]


def chart(*options: str, home: Path) -> list[Manifest]:
    """What the chart makes in the namespace `bots`."""
    done = run("template", "a-bot", CHART, "--namespace=bots", *options, home=home)
    return [found for found in yaml.safe_load_all(done) if found]


def run(*words: str, home: Path) -> str:
    try:
        done = helm(*words, home=home)
    except HelmMissing as why:
        pytest.skip(f"DID NOT RUN: the Helm chart was not made: {why}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def objects(manifests: list[Manifest]) -> Objects:
    """By kind and name, without what each tool has of its own: a suffix, a namespace, the volumes' order."""
    text = re.sub(r"tokenvault-config-[0-9a-z]{10}\b", "tokenvault-config", yaml.safe_dump(manifests))
    found: Objects = {}
    for manifest in yaml.safe_load(text):
        metadata = manifest["metadata"]
        metadata.pop("namespace", None)
        annotations = metadata.pop("annotations", {})
        assert annotations.keys() <= {"helm.sh/resource-policy"}
        if manifest["kind"] == "Deployment":
            manifest["spec"]["template"]["spec"]["volumes"].sort(key=itemgetter("name"))
        found[manifest["kind"], metadata["name"]] = manifest
    return found


def test_with_its_own_values_it_is_the_base(tmp_path: Path) -> None:
    assert objects(chart(home=tmp_path)) == objects(rendered("base"))


def test_with_the_examples_values_it_is_the_examples_bot(tmp_path: Path) -> None:
    expected = objects(rendered("example"))
    assert expected.keys() > OF_THE_EXAMPLE_ALONE
    for key in OF_THE_EXAMPLE_ALONE:
        del expected[key]
    assert objects(chart(*EXAMPLE, home=tmp_path)) == expected


def test_a_difference_is_found(tmp_path: Path) -> None:
    changed = objects(chart("--set=bot.resources.limits.memory=1Gi", home=tmp_path))
    base = objects(rendered("base"))
    assert {key for key in base if changed[key] != base[key]} == {("Deployment", "bot")}


def test_another_configuration_has_another_name(tmp_path: Path) -> None:
    def name(*options: str) -> str:
        [found] = [m for m in chart(*options, home=tmp_path) if m["kind"] == "ConfigMap"]
        return str(found["metadata"]["name"])

    assert name() == name()
    assert name() != name("--set=config=other")


@pytest.mark.parametrize("change", [(), ("--set=service.enabled=true",), ("--set=persistence.enabled=true",)])
def test_what_it_makes_is_valid_restricted_and_whole(change: tuple[str, ...], tmp_path: Path) -> None:
    made = chart(*change, "--set=bot.env[0].name=A,bot.env[0].value=b", home=tmp_path / "home")
    assert [list(schema_faults(found, OLDEST)) for found in made] == [[]] * len(made)
    assert [list(faults(pod)) for pod in pods(made).values()] == [[]]
    assert [*reference_faults(made, BY_HAND), *selector_faults(made)] == []
    assert load_mounted(made, tmp_path)


@pytest.mark.parametrize("wrong", ["persistence.enable=true", "service.enabled=maybe", "bot.identity=bot"])
def test_values_that_mean_nothing_are_refused(wrong: str, tmp_path: Path) -> None:
    run("version", home=tmp_path)
    done = helm("template", "a-bot", CHART, f"--set={wrong}", home=tmp_path)
    assert done.returncode != 0
    assert wrong.split(".", maxsplit=1)[0] in done.stderr


def test_helm_finds_nothing_against_it(tmp_path: Path) -> None:
    assert "0 chart(s) failed" in run("lint", "--strict", CHART, home=tmp_path)


def test_it_has_the_sidecars_version() -> None:
    about = yaml.safe_load((ROOT / CHART / "Chart.yaml").read_text())
    values = yaml.safe_load((ROOT / CHART / "values.yaml").read_text())
    assert values["sidecar"]["image"].endswith(f":{about['appVersion']}")
    assert f'version = "{about["appVersion"]}"' in (ROOT / "vault" / "pyproject.toml").read_text()
