"""What a configuration means once it is loaded."""

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.config.documents import DELETE, Document
from tokenvault_sidecar.config import describe, load_config
from tokenvault_sidecar.config.files import exposed
from tokenvault_sidecar.core.model import Brand, ContextKind, ContextSettings
from tokenvault_sidecar.core.policy import Allow, Caller, Rpc


def test_paths_start_at_the_files_folder(document: Document) -> None:
    config = document.load()
    assert config.server.certificate_file == document.folder / "server.pem"
    assert config.store.file == document.folder / "tokenvault.db"
    assert getattr(config.keys.keks[0], "path", None) == document.folder / "kek"


def test_absolute_paths_stay(document: Document, tmp_path: Path) -> None:
    document.set("store", "path", to=str(tmp_path / "elsewhere.db"))
    assert document.load().store.file == tmp_path / "elsewhere.db"


def test_a_file_named_without_a_folder_is_one_of_here(document: Document) -> None:
    relative = Path(os.path.relpath(document.path))
    assert load_config(relative).store.file.resolve() == (document.folder / "tokenvault.db").resolve()


def test_a_database_in_place_of_the_file(document: Document) -> None:
    document.file("database-password", "x")
    url = "postgresql://vault%40x@db1.example.org,[::1]:6432,%2Frun%2Fpostgresql/grants"
    document.set("store", to={"url": url, "password_file": "database-password"})
    config = document.load()
    found = config.store.url
    assert found is not None
    assert (found.user, found.database) == ("vault@x", "grants")
    assert found.hosts == ("db1.example.org", "::1", "/run/postgresql")
    assert found.ports == (5432, 6432, 5432)
    assert (config.store.sslmode, config.store.sslrootcert, config.store.connections) == (
        "verify-full",
        None,
        8,
    )
    assert f"Keeps grants in {url}, sealed by" in describe(config)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "%2Frun%2Fpostgresql"])
def test_a_database_of_this_machine_needs_no_tls(document: Document, host: str) -> None:
    document.set("store", to={"url": f"postgresql://u@{host}/d", "sslmode": "disable"})
    assert document.load().store.where == f"postgresql://u@{host}/d"


def test_unix_sockets_start_there_too(document: Document) -> None:
    document.set("server", "listen", to=["[::1]:0", "localhost:7443", "unix:vault.sock", "unix:/run/v.sock"])
    assert document.load().server.listen == (
        "[::1]:0",
        "localhost:7443",
        f"unix:{document.folder}/vault.sock",
        "unix:/run/v.sock",
    )


def test_defaults(document: Document) -> None:
    document.set("renewal", to=DELETE)
    config = document.load()
    assert (config.renewal.margin, config.renewal.redemption_deadline, config.renewal.lease) == (60, 10, 30)
    assert config.housekeeping.interval == 60
    assert config.server.drain_timeout == 30
    assert config.server.log_level == "info"
    brand = config.brands["acme"]
    assert brand.discovers
    assert brand.id_token_algorithms == ("RS256", "PS256", "ES256", "EdDSA")


def test_brands_for_the_core(document: Document) -> None:
    document.set("renewal", "margin", to="90s")
    document.set("brands", "acme", "delegation_lifetime", to="5m")
    document.set("brands", "acme", "consumer", "allowed_scopes", to=["openid", "offline_access", "more"])
    document.set("brands", "acme", "conversation", "max_lifetime", to="1h30m")
    assert document.load().to_brands() == (
        Brand(
            id="acme",
            redirect_uris=("http://127.0.0.1:7481/callback/acme",),
            contexts={
                ContextKind.CONSUMER: ContextSettings(
                    scopes=("openid", "offline_access"),
                    allowed_scopes=frozenset({"openid", "offline_access", "more"}),
                    session_absolute=43200.0,
                    session_idle=1800.0,
                ),
                ContextKind.CONVERSATION: ContextSettings(
                    scopes=("openid",), allowed_scopes=frozenset({"openid"}), max_lifetime=5400.0
                ),
            },
            delegation_lifetime=300.0,
            renewal_margin=90.0,
            authorization_parameters={"prompt": "consent"},
            allowed_parameters=frozenset({"prompt", "ui_locales", "acr_values", "login_hint"}),
        ),
    )


def test_a_kind_without_its_table_is_off(document: Document) -> None:
    document.set("brands", "acme", "conversation", to=DELETE)
    document.set("callers", "bot", "allow", 0, "contexts", to=["consumer"])
    assert set(document.load().to_brands()[0].contexts) == {ContextKind.CONSUMER}


def test_callers_for_the_core(document: Document) -> None:
    document.set("callers", "brand-service", "allow", 0, "scopes", to=["openid"])
    both = frozenset({ContextKind.CONSUMER, ContextKind.CONVERSATION})
    bot = Allow(frozenset(Rpc), None, both, None, id_token=True, keeps_session_alive=True)
    service = Allow(
        frozenset({Rpc.GET_TOKEN}),
        frozenset({"acme"}),
        frozenset({ContextKind.CONSUMER}),
        frozenset({"openid"}),
    )
    assert document.load().to_callers() == (
        Caller("bot", frozenset({"spiffe://tokenvault.test/bot"}), (bot,)),
        Caller("brand-service", frozenset({"spiffe://tokenvault.test/brand-service"}), (service,)),
    )


def test_a_caller_shows_an_access_token_where_a_table_says_so(document: Document) -> None:
    assert document.load().callers["brand-service"].bearer is None
    assert "access token of" not in describe(document.load())
    table = {"issuer": "https://login.example", "audience": "https://vault.example"}
    document.set("callers", "brand-service", "bearer", to=table)
    config = document.load()
    bearer = config.callers["brand-service"].bearer
    assert bearer is not None
    assert bearer.scopes == ("delegated.token.read.external",)
    assert bearer.algorithms == ("RS256", "PS256", "ES256", "EdDSA")
    assert bearer.client_ids is None
    assert not bearer.require_certificate_binding
    assert (
        "must show an access token of https://login.example for https://vault.example "
        "with scope delegated.token.read.external" in describe(config)
    )
    document.set("callers", "brand-service", "bearer", "require_certificate_binding", to=True)
    assert "bound to its certificate" in describe(document.load())


def test_secrets_are_read_without_the_lines_end(document: Document) -> None:
    document.file("client-secret", " p%s+&\u00e9 \r\n")
    secret = document.load().brands["acme"].client_secret
    assert secret is not None
    assert secret.reveal() == " p%s+&\u00e9 "


def test_a_signing_key_and_static_keys(document: Document) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    document.file("key.pem", pem)
    document.file("jwks.json", '{"keys": [{"kty": "EC", "crv": "P-256", "x": "eA", "y": "eQ"}]}')
    document.set("brands", "acme", "client_auth", to="private_key_jwt")
    document.set("brands", "acme", "client_secret_file", to=DELETE)
    document.set("brands", "acme", "private_key_file", to="key.pem")
    document.set("brands", "acme", "jwks_file", to="jwks.json")
    brand = document.load().brands["acme"]
    assert brand.client_secret is None
    assert brand.private_key is not None
    assert brand.private_key.reveal() == pem.rstrip("\n")
    assert brand.jwks_file is not None
    assert brand.jwks_file.text == (document.folder / "jwks.json").read_text()


def test_no_warnings_after_init(document: Document) -> None:
    assert document.load().warnings == ()


def test_files_open_to_others_are_warned_of(document: Document) -> None:
    for name, mode in (("kek", 0o644), ("client-secret", 0o640), ("server.key.pem", 0o602)):
        (document.folder / name).chmod(mode)
    key, kek, secret = document.load().warnings
    assert key.startswith(f"server.private_key_file: {document.folder}/server.key.pem")
    assert kek.startswith(f"keys.kek_file: {document.folder}/kek")
    assert "mode 0644" in kek
    assert "chmod 600" in kek
    assert secret.startswith(f"brands.acme.client_secret_file: {document.folder}/client-secret")


@pytest.mark.parametrize(
    ("mode", "owner", "reader", "is_exposed"),
    [
        (0o600, 1000, 1000, False),
        (0o640, 1000, 1000, True),
        (0o440, 0, 65532, False),  # a Secret's volume with fsGroup, a systemd credential
        (0o460, 0, 65532, True),
        (0o444, 0, 65532, True),
        (0o440, 0, 0, True),
        (0o440, 1000, 0, True),  # root needs no group
    ],
)
def test_a_secret_that_another_hands_over_may_be_its_groups(
    mode: int, owner: int, reader: int, is_exposed: bool
) -> None:
    assert exposed(mode, owner=owner, reader=reader) is is_exposed


def test_secrets_are_not_shown(document: Document) -> None:
    config = document.load()
    shown = repr(config) + str(config) + describe(config) + repr(config.to_brands()) + repr(config.brands)
    for name in ("client-secret", "kek", "server.key.pem"):
        content = (document.folder / name).read_text()
        assert all(line not in shown for line in content.split("\n") if line)


def test_a_configuration_does_not_change(document: Document) -> None:
    config = document.load()
    assert config == load_config(document.path)
    assert config.model_config["frozen"]
