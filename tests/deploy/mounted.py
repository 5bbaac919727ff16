"""What the sidecar's container finds on its disk, in a folder, and its configuration loaded from there."""

import re
from pathlib import Path

from tests.deploy.manifests import Manifest, named, pods
from tokenvault_sidecar.config import Config, load_config

SECRETS = {
    "tokenvault-server-tls": ("tls.crt", "tls.key", "ca.crt"),  # as cert-manager makes it
    "tokenvault-kek": ("kek",),
    "tokenvault-brands": ("acme",),
}


def load_mounted(manifests: list[Manifest], root: Path) -> Config:
    """The configuration as the sidecar would load it. Raises ConfigError."""
    pod = pods(manifests)["bot"]
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    [sidecar] = pod["spec"]["initContainers"]
    for mount in sidecar["volumeMounts"]:
        folder = root / mount["mountPath"].removeprefix("/")
        folder.mkdir(parents=True)
        volume = volumes[mount["name"]]
        if "secret" in volume:
            for name in SECRETS[volume["secret"]["secretName"]]:
                (folder / name).write_text("x" * 44)
                (folder / name).chmod(0o600)
        elif "configMap" in volume:
            for name, text in named(manifests, "ConfigMap")[volume["configMap"]["name"]]["data"].items():
                # Every path in it is absolute, and root stands for the container's.
                (folder / name).write_text(re.sub('"(?=/)', f'"{root}', text))
    config = sidecar["args"][sidecar["args"].index("--config") + 1]
    return load_config(root / config.removeprefix("/"))
