"""The restricted Pod Security Standard as a table: what it says of a pod, and of each of its containers.

https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.deploy.manifests import Manifest, containers

Spec = Mapping[str, Any]

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_syncookies",
}
_SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}


def _of(spec: Spec, *path: str) -> Any:
    """What is at the end of this path, None where it ends early."""
    for part in path:
        spec = (spec or {}).get(part)  # type: ignore[assignment]
    return spec


def _context(pod: Spec, container: Spec, *path: str) -> Any:
    """Of the container's security context, else the pod's."""
    own = _of(container, "securityContext", *path)
    return own if own is not None else _of(pod, "securityContext", *path)


POD: dict[str, Callable[[Spec], bool]] = {
    "no namespace of the host": lambda pod: not any(map(pod.get, ("hostNetwork", "hostPID", "hostIPC"))),
    "volumes of known kinds": lambda pod: all(
        volume.keys() - {"name"} <= _VOLUMES for volume in pod.get("volumes", ())
    ),
    "harmless sysctls": lambda pod: all(
        sysctl["name"] in _SYSCTLS for sysctl in _of(pod, "securityContext", "sysctls") or ()
    ),
    "no HostProcess": lambda pod: not _of(pod, "securityContext", "windowsOptions", "hostProcess"),
}
CONTAINER: dict[str, Callable[[Spec, Spec], bool]] = {
    "not privileged": lambda _, container: not _of(container, "securityContext", "privileged"),
    "no escalation": lambda _, container: (
        _of(container, "securityContext", "allowPrivilegeEscalation") is False
    ),
    "drops all capabilities": lambda _, container: (
        "ALL" in (_of(container, "securityContext", "capabilities", "drop") or ())
    ),
    "adds none but NET_BIND_SERVICE": lambda _, container: (
        set(_of(container, "securityContext", "capabilities", "add") or ()) <= {"NET_BIND_SERVICE"}
    ),
    "not as root": lambda pod, container: _context(pod, container, "runAsNonRoot") is True,
    "not as user 0": lambda pod, container: _context(pod, container, "runAsUser") != 0,
    "seccomp": lambda pod, container: (
        _context(pod, container, "seccompProfile", "type") in ("RuntimeDefault", "Localhost")
    ),
    "AppArmor": lambda pod, container: (
        _context(pod, container, "appArmorProfile", "type") in (None, "RuntimeDefault", "Localhost")
    ),
    "SELinux": lambda pod, container: (
        (_context(pod, container, "seLinuxOptions", "type") or "") in _SELINUX_TYPES
        and not _context(pod, container, "seLinuxOptions", "user")
        and not _context(pod, container, "seLinuxOptions", "role")
    ),
    "no port of the host": lambda _, container: (
        not any(port.get("hostPort") for port in container.get("ports", ()))
    ),
    "default /proc": lambda _, container: _of(container, "securityContext", "procMount") in (None, "Default"),
    "no probe to another host": lambda _, container: (
        not any(
            _of(container, probe, kind, "host")
            for probe in ("startupProbe", "readinessProbe", "livenessProbe")
            for kind in ("httpGet", "tcpSocket")
        )
    ),
}


def faults(pod: Manifest) -> Iterator[str]:
    """What in this pod's template the profile does not allow."""
    spec = pod["spec"]
    yield from (rule for rule, holds in POD.items() if not holds(spec))
    for container in containers(pod):
        yield from (
            f"{container['name']}: {rule}" for rule, holds in CONTAINER.items() if not holds(spec, container)
        )
