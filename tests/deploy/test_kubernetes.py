"""The Kubernetes manifests: valid, restricted, fitting together, their configuration in order."""

from pathlib import Path

import pytest
from kubernetes_validate.utils import latest_version

from tests.deploy import restricted
from tests.deploy.manifests import (
    OLDEST,
    Manifest,
    containers,
    named,
    pods,
    reference_faults,
    rendered,
    schema_faults,
    selector_faults,
)
from tests.deploy.mounted import load_mounted
from tokenvault_sidecar.core.model import ContextKind
from tokenvault_sidecar.core.policy import Rpc

FOLDERS = ("base", "example", "fleet")
BY_HAND = {"tokenvault-kek", "tokenvault-brands", "tokenvault-database"}


@pytest.mark.parametrize("version", [OLDEST, latest_version()])
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_manifest_is_valid(folder: str, version: str) -> None:
    assert [list(schema_faults(found, version)) for found in rendered(folder)] == [[]] * len(rendered(folder))


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_pod_is_within_the_restricted_profile(folder: str) -> None:
    for pod in pods(rendered(folder)).values():
        assert list(restricted.faults(pod)) == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_named_is_there(folder: str) -> None:
    assert list(reference_faults(rendered(folder), BY_HAND)) == []
    assert list(selector_faults(rendered(folder))) == []


def put(spec: Manifest, path: str, value: object) -> None:
    """Set the last of a dotted path; a number is a list's index."""
    *way, last = path.split(".")
    for part in way:
        spec = spec[int(part)] if isinstance(spec, list) else spec.setdefault(part, {})
    spec[last] = value


BROKEN = {
    "no namespace of the host": ("hostNetwork", True),
    "volumes of known kinds": ("volumes.0.hostPath", {"path": "/"}),
    "harmless sysctls": ("securityContext.sysctls", [{"name": "kernel.msgmax", "value": "1"}]),
    "no HostProcess": ("securityContext.windowsOptions", {"hostProcess": True}),
    "tokenvault: not privileged": ("initContainers.0.securityContext.privileged", True),
    "tokenvault: no escalation": ("initContainers.0.securityContext.allowPrivilegeEscalation", True),
    "tokenvault: drops all capabilities": ("initContainers.0.securityContext.capabilities", {}),
    "tokenvault: adds none but NET_BIND_SERVICE": (
        "initContainers.0.securityContext.capabilities",
        {"drop": ["ALL"], "add": ["SYS_PTRACE"]},
    ),
    "bot: not as root": ("containers.0.securityContext.runAsNonRoot", False),
    "bot: not as user 0": ("containers.0.securityContext.runAsUser", 0),
    "bot: seccomp": ("containers.0.securityContext.seccompProfile", {"type": "Unconfined"}),
    "bot: AppArmor": ("containers.0.securityContext.appArmorProfile", {"type": "Unconfined"}),
    "bot: SELinux": ("containers.0.securityContext.seLinuxOptions", {"user": "system_u"}),
    "bot: no port of the host": ("containers.0.ports", [{"containerPort": 80, "hostPort": 80}]),
    "bot: default /proc": ("containers.0.securityContext.procMount", "Unmasked"),
    "bot: no probe to another host": ("containers.0.livenessProbe", {"httpGet": {"host": "h", "port": 1}}),
}


@pytest.mark.parametrize(("fault", "change"), BROKEN.items(), ids=BROKEN)
def test_a_pod_that_breaks_a_rule_is_found(fault: str, change: tuple[str, object]) -> None:
    pod = pods(rendered("base"))["bot"]
    put(pod["spec"], *change)
    assert list(restricted.faults(pod)) == [fault]


def test_every_rule_of_the_profile_is_broken_once() -> None:
    assert {
        fault.rpartition(": ")[2] for fault in BROKEN
    } == restricted.POD.keys() | restricted.CONTAINER.keys()


def test_a_manifest_that_is_not_valid_is_found() -> None:
    deployment = named(rendered("base"), "Deployment")["bot"]
    deployment["spec"]["replica"] = 1
    assert "replica" in next(schema_faults(deployment, OLDEST))
    certificate = named(rendered("base"), "Certificate")["tokenvault-server"]
    del certificate["spec"]["secretName"]
    assert list(schema_faults(certificate, OLDEST)) == ["secretName is missing"]


def test_what_is_named_and_not_there_is_found() -> None:
    manifests = rendered("example")
    pods(manifests)["bot"]["metadata"]["labels"]["app.kubernetes.io/name"] = "other"
    assert "Service tokenvault matches 0 pods" in list(selector_faults(manifests))
    assert list(reference_faults(manifests, {"tokenvault-brands"})) == [
        "bot: volume kek: no secret tokenvault-kek"
    ]


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_mounted_configuration_is_in_order(folder: str, tmp_path: Path) -> None:
    config = load_mounted(rendered(folder), tmp_path)
    [grace] = [
        pod["spec"]["terminationGracePeriodSeconds"]
        for name, pod in pods(rendered(folder)).items()
        if name == "bot"
    ]
    assert config.server.drain_timeout < grace
    assert config.ops is not None
    assert config.ops.listen.startswith("127.0.0.1:"), "of the pod, and asked by the probes inside it"
    certificates = named(rendered(folder), "Certificate").values()
    uris = {uri for found in certificates for uri in found["spec"].get("uris", ())}
    assert {identity for caller in config.to_callers() for identity in caller.identities} == uris


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_bot_may_do_all_that_a_delegation_takes(folder: str, tmp_path: Path) -> None:
    """The first consumer would find out else."""
    [bot] = [
        caller for caller in load_mounted(rendered(folder), tmp_path).to_callers() if caller.name == "bot"
    ]
    [allow] = bot.allows
    assert allow.rpcs == set(Rpc) - {Rpc.REFLECTION}


def test_the_brands_service_reads_its_consumers_tokens_and_nothing_else(tmp_path: Path) -> None:
    config = load_mounted(rendered("example"), tmp_path)
    [caller] = [caller for caller in config.to_callers() if caller.name == "brand-service"]
    [allow] = caller.allows
    assert allow.rpcs == {Rpc.GET_TOKEN}
    assert allow.contexts == {ContextKind.CONSUMER}


def test_the_brands_service_reaches_the_bots_sidecar() -> None:
    manifests = rendered("example")
    [address] = [
        entry["value"]
        for entry in pods(manifests)["brand-service"]["spec"]["containers"][0]["env"]
        if entry["name"] == "TOKENVAULT_ADDRESS"
    ]
    host, _, port = address.rpartition(":")
    service = named(manifests, "Service")["tokenvault"]
    assert host == f"tokenvault.{service['metadata']['namespace']}.svc"
    assert host in named(manifests, "Certificate")["tokenvault-server"]["spec"]["dnsNames"]
    assert int(port) == service["spec"]["ports"][0]["port"]
    policies = named(manifests, "NetworkPolicy")
    [way_out] = [rule for rule in policies["brand-service"]["spec"]["egress"] if _to(rule, "to", "bot")]
    [way_in] = [rule for rule in policies["bot"]["spec"]["ingress"] if _to(rule, "from", "brand-service")]
    assert way_out["ports"] == way_in["ports"] == [{"protocol": "TCP", "port": int(port)}]


def _to(rule: Manifest, direction: str, pod: str) -> bool:
    label = {"app.kubernetes.io/name": pod}
    return {"podSelector": {"matchLabels": label}} in rule.get(direction, ())


def test_the_fleet_is_of_equal_sidecars_on_one_database(tmp_path: Path) -> None:
    manifests = rendered("fleet")
    deployment = named(manifests, "Deployment")["bot"]["spec"]
    assert deployment["replicas"] == 2
    assert deployment["strategy"] == {"type": "RollingUpdate"}
    assert not named(manifests, "PersistentVolumeClaim")
    sidecars = [_sidecar_of(pod) for pod in pods(manifests).values()]
    assert len(sidecars) == 2
    assert sidecars[0] == sidecars[1]
    url = load_mounted(manifests, tmp_path).store.url
    assert url is not None
    _, namespace, _ = url.hosts[0].split(".")
    rule = {
        "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}],
        "ports": [{"protocol": "TCP", "port": url.ports[0]}],
    }
    for policy in named(manifests, "NetworkPolicy").values():
        assert rule in policy["spec"]["egress"]
        assert policy["spec"]["ingress"] == []


def test_no_node_takes_the_fleets_bots_with_it() -> None:
    """Not by its end, where another has room, and not by being drained."""
    manifests = rendered("fleet")
    deployment = named(manifests, "Deployment")["bot"]["spec"]
    of_bots = deployment["selector"]["matchLabels"]
    spread = deployment["template"]["spec"]["topologySpreadConstraints"]
    assert {one["topologyKey"] for one in spread} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    for one in spread:
        assert (one["maxSkew"], one["whenUnsatisfiable"]) == (1, "ScheduleAnyway")
        assert one["labelSelector"] == {"matchLabels": of_bots}
    [budget] = named(manifests, "PodDisruptionBudget").values()
    assert budget["spec"] == {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": of_bots},
    }
    assert deployment["replicas"] > budget["spec"]["maxUnavailable"]


def _sidecar_of(pod: Manifest) -> tuple[Manifest, list[Manifest]]:
    """The container, and the volumes that are mounted into it."""
    [sidecar] = pod["spec"]["initContainers"]
    sidecar["volumeMounts"].sort(key=_name)
    mounted = set(map(_name, sidecar["volumeMounts"]))
    return sidecar, sorted((one for one in pod["spec"]["volumes"] if _name(one) in mounted), key=_name)


def _name(entry: Manifest) -> str:
    return str(entry["name"])


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_pod_may_resolve_names(folder: str) -> None:
    for policy in named(rendered(folder), "NetworkPolicy").values():
        [dns] = [
            rule for rule in policy["spec"]["egress"] if {"protocol": "UDP", "port": 53} in rule["ports"]
        ]
        [peer] = dns["to"]
        assert peer["podSelector"]["matchLabels"] == {"k8s-app": "kube-dns"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_sidecar_is_a_native_one_with_probes_and_bounds(folder: str) -> None:
    pod = pods(rendered(folder))["bot"]
    [sidecar] = pod["spec"]["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    asked = ["tokenvault", "health", "--config", "/etc/tokenvault/tokenvault.toml"]
    assert sidecar["startupProbe"]["exec"]["command"] == sidecar["readinessProbe"]["exec"]["command"] == asked
    for container in containers(pod):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert {"memory"} <= container["resources"]["limits"].keys()
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()


def test_what_is_the_sidecars_is_not_in_the_bot() -> None:
    for pod in (pods(rendered(folder))["bot"] for folder in FOLDERS):
        [bot] = pod["spec"]["containers"]
        assert [mount["name"] for mount in bot["volumeMounts"]] == ["client-tls"]


def test_the_store_is_the_pods_or_a_volume_of_one_pod() -> None:
    def store(folder: str) -> Manifest:
        volumes = pods(rendered(folder))["bot"]["spec"]["volumes"]
        [volume] = [volume for volume in volumes if volume["name"] == "store"]
        assert isinstance(volume, dict)
        return volume

    assert "emptyDir" in store("base")
    assert store("example") == {"name": "store", "persistentVolumeClaim": {"claimName": "tokenvault-store"}}
    claim = named(rendered("example"), "PersistentVolumeClaim")["tokenvault-store"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    for folder in ("base", "example"):
        deployment = named(rendered(folder), "Deployment")["bot"]["spec"]
        assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
