"""The Kubernetes manifests as objects: rendered, and checked against schemas and each other."""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from tests.deploy.dockerfile import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
KUBECTL = Path(sys.executable).with_name("kubectl")
OLDEST = "1.33"
"""Native sidecars are stable from here on."""

Manifest = dict[str, Any]

_CUSTOM = {
    ("cert-manager.io/v1", "Certificate"): {"secretName", "issuerRef"},
    ("cert-manager.io/v1", "Issuer"): set[str](),
}
"""What kubernetes-validate has no schema of, with what its spec must have."""


def kustomize(folder: Path) -> list[Manifest]:
    """What `kubectl apply -k` of this folder would send."""
    done = subprocess.run(
        [KUBECTL, "kustomize", folder], check=True, capture_output=True, text=True, timeout=60
    )
    return list(yaml.safe_load_all(done.stdout))


@cache
def _rendered(folder: str) -> list[Manifest]:
    return kustomize(KUBERNETES / folder)


def rendered(folder: str) -> list[Manifest]:
    """Those of a folder of deploy/kubernetes, to be changed at will."""
    return deepcopy(_rendered(folder))


def named(manifests: Iterable[Manifest], kind: str) -> dict[str, Manifest]:
    """Those of this kind, by name."""
    return {found["metadata"]["name"]: found for found in manifests if found["kind"] == kind}


def pods(manifests: Iterable[Manifest]) -> dict[str, Manifest]:
    """The pod of each Deployment."""
    return {name: found["spec"]["template"] for name, found in named(manifests, "Deployment").items()}


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def schema_faults(manifest: Manifest, version: str) -> Iterator[str]:
    """What the published schema of that Kubernetes version, or of an object of others, has against it."""
    required = _CUSTOM.get((manifest["apiVersion"], manifest["kind"]))
    if required is not None:
        yield from (f"{name} is missing" for name in sorted(required - manifest["spec"].keys()))
        return
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as fault:
        yield f"{'.'.join(map(str, fault.path))}: {fault.message}"


def reference_faults(manifests: list[Manifest], elsewhere: set[str]) -> Iterator[str]:
    """What is named and not there. `elsewhere`: the Secrets that are made by hand."""
    secrets = elsewhere | {found["spec"]["secretName"] for found in named(manifests, "Certificate").values()}
    there = {
        "secret": secrets,
        "configMap": set(named(manifests, "ConfigMap")),
        "persistentVolumeClaim": set(named(manifests, "PersistentVolumeClaim")),
    }
    for name, pod in pods(manifests).items():
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", ())}
        for volume in volumes.values():
            [(kind, source)] = [(key, value) for key, value in volume.items() if key != "name"]
            target = source.get("secretName") or source.get("claimName") or source.get("name")
            if kind in there and target not in there[kind]:
                yield f"{name}: volume {volume['name']}: no {kind} {target}"
        for container in containers(pod):
            for mount in container.get("volumeMounts", ()):
                if mount["name"] not in volumes:
                    yield f"{name}: {container['name']}: no volume {mount['name']}"


def selector_faults(manifests: list[Manifest]) -> Iterator[str]:
    """Each selector of pods of this namespace must be that of exactly one pod."""
    labels = [pod["metadata"]["labels"].items() for pod in pods(manifests).values()]
    for where, selector in _selectors(manifests):
        matched = sum(selector.items() <= of_pod for of_pod in labels)
        if matched != 1:
            yield f"{where} matches {matched} pods"


def _selectors(manifests: list[Manifest]) -> Iterator[tuple[str, dict[str, str]]]:
    for name, found in named(manifests, "Deployment").items():
        yield f"Deployment {name}", found["spec"]["selector"]["matchLabels"]
        for spread in found["spec"]["template"]["spec"].get("topologySpreadConstraints", ()):
            yield f"Deployment {name}'s spread", spread["labelSelector"]["matchLabels"]
    for name, found in named(manifests, "PodDisruptionBudget").items():
        yield f"PodDisruptionBudget {name}", found["spec"]["selector"]["matchLabels"]
    for name, found in named(manifests, "Service").items():
        yield f"Service {name}", found["spec"]["selector"]
    for name, found in named(manifests, "NetworkPolicy").items():
        spec = found["spec"]
        yield f"NetworkPolicy {name}", spec["podSelector"].get("matchLabels", {})
        for rule in (*spec.get("ingress", ()), *spec.get("egress", ())):
            for peer in (*rule.get("from", ()), *rule.get("to", ())):
                if "namespaceSelector" not in peer:
                    yield f"NetworkPolicy {name}'s peer", peer["podSelector"].get("matchLabels", {})
