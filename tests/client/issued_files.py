"""The files that the Node and Java clients' own tests find in the folder TOKENVAULT_TEST_FILES."""

from pathlib import Path

from tokenvault_sidecar.devkit import DevelopmentCA


def write_files(folder: Path) -> None:
    """What its scripted sidecar and that one's callers show."""
    ca = DevelopmentCA.create("test CA")
    (folder / "ca.pem").write_bytes(ca.certificate_pem)
    issued = {name: ca.issue(name=name, uris=[f"spiffe://test/{name}"]) for name in ("bot", "bot-2")}
    issued["server"] = ca.issue(name="server", ips=["127.0.0.1"])
    issued["named"] = ca.issue(name="named", dns=["vault.test", "localhost"])
    for name, own in issued.items():
        (folder / f"{name}.pem").write_bytes(own.certificate_pem)
        (folder / f"{name}.key").write_bytes(own.private_key_pem)
