"""What a container finds on its disk, laid out in a folder that stands for its root."""

import re
from collections.abc import Mapping
from pathlib import Path

from tests.deploy.manifests import Manifest, containers, named, pods
from tokenvault_sidecar.config import Config, load_config
from tokenvault_sidecar.devkit import DevelopmentCA

Secrets = Mapping[str, Mapping[str, bytes]]
"""The files of each Secret."""

_SOMETHING = b"x" * 44
BY_HAND: Secrets = {
    "tokenvault-kek": {"kek": _SOMETHING},
    "tokenvault-brands": {"acme": _SOMETHING},
    "tokenvault-database": {"password": _SOMETHING, "ca.crt": _SOMETHING},
}
SIDECAR, BOT, BRAND_SERVICE = ("bot", "tokenvault"), ("bot", "bot"), ("brand-service", "brand-service")
"""Pod and container."""


def issue(manifests: list[Manifest]) -> Secrets:
    """What cert-manager makes of the Certificates, all of one authority."""
    authority = DevelopmentCA.create("tokenvault-ca")
    made = {}
    for name, found in named(manifests, "Certificate").items():
        spec = found["spec"]
        certificate = authority.issue(
            name=name,
            uris=spec.get("uris", ()),
            dns=spec.get("dnsNames", ()),
            ips=spec.get("ipAddresses", ()),
        )
        made[spec["secretName"]] = {
            "tls.crt": certificate.certificate_pem,
            "tls.key": certificate.private_key_pem,
            "ca.crt": authority.certificate_pem,
        }
    return made


def lay_out(manifests: list[Manifest], where: tuple[str, str], root: Path, secrets: Secrets) -> None:
    """Make what is mounted into that container, below `root`."""
    pod = pods(manifests)[where[0]]
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    for mount in container(manifests, where)["volumeMounts"]:
        folder = root / mount["mountPath"].removeprefix("/")
        folder.mkdir(parents=True)
        volume = volumes[mount["name"]]
        if "secret" in volume:
            for name, content in secrets[volume["secret"]["secretName"]].items():
                (folder / name).write_bytes(content)
                (folder / name).chmod(0o600)
        elif "configMap" in volume:
            for name, text in named(manifests, "ConfigMap")[volume["configMap"]["name"]]["data"].items():
                # Every path in it is absolute, and root stands for the container's.
                (folder / name).write_text(re.sub('"(?=/)', f'"{root}', text))


def container(manifests: list[Manifest], where: tuple[str, str]) -> Manifest:
    [found] = [one for one in containers(pods(manifests)[where[0]]) if one["name"] == where[1]]
    return found


def config_file(manifests: list[Manifest], root: Path) -> Path:
    """The one the sidecar serves."""
    arguments: list[str] = container(manifests, SIDECAR)["args"]
    return root / arguments[arguments.index("--config") + 1].removeprefix("/")


def load_mounted(manifests: list[Manifest], root: Path) -> Config:
    """The configuration as the sidecar would load it. Raises ConfigError."""
    lay_out(manifests, SIDECAR, root, {**issue(manifests), **BY_HAND})
    return load_config(config_file(manifests, root))
