"""Each thing that can be wrong: its key, what is said of it, and what to do about it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.config.documents import DELETE, Document
from tokenvault_sidecar.config import ConfigError, load_config

BRAND = ("brands", "acme")
ALLOW = ("callers", "brand-service", "allow", 0)
BEARER = ("callers", "brand-service", "bearer")
SHOWN = "callers.brand-service.bearer"
URL = "postgresql://tokenvault@db.example.org/tokenvault"
PLAIN = {"url": "postgresql://u@localhost/d", "sslmode": "disable"}
SPLIT = {
    "issuer": "http://127.0.0.1:9400",
    "client_id": "x",
    "client_auth": "none",
    "redirect_uris": ["https://bots.example.com/"],
    "conversation": {"scopes": ["a"]},
}

Path_ = tuple[str | int, ...]
KEYS: list[tuple[Path_, Any, str, str, str]] = [
    # unknown keys
    (("sever",), {}, "sever", "not a known key", "did you mean 'server'?"),
    (("server", "liste"), [], "server.liste", "not a known key", "did you mean 'listen'?"),
    ((*BRAND, "client_secret"), "x", "brands.acme.client_secret", "known key", "'client_secret_file'"),
    ((*BRAND, "session"), {}, "brands.acme.session", "known key", "known here are allowed_authorization"),
    ((*BRAND, "consumer", "scope"), [], "brands.acme.consumer.scope", "known key", "'scopes'"),
    ((*ALLOW, "rpc"), [], "callers.brand-service.allow[0].rpc", "known key", "'rpcs'"),
    # the callback port and its page
    (("callback", "path"), "/callback", "callback.path", "one {brand}", '"/callback/{brand}"'),
    (("callback", "certificate_file"), "ca.pem", "callback.private_key_file", "is missing", "an ingress"),
    ((*BRAND, "page", "accent_color"), "red", "brands.acme.page.accent_color", "is no colour", "#rrggbb"),
    ((*BRAND, "page", "text_color"), "#eeeeee", "brands.acme.page", "cannot read", "4.5:1"),
    ((*BRAND, "page", "logo_file"), "ca.pem", "brands.acme.page.logo_file", "names no image", ".png"),
    # missing keys and tables
    (("server",), DELETE, "server", "is missing", "see [server]"),
    (("server", "listen"), DELETE, "server.listen", "is missing", 'listen = ["127.0.0.1:7443"'),
    (("store", "path"), DELETE, "store.path", "is missing", "path = "),
    (("keys", "kek_file"), DELETE, "keys.kek_file", "is missing", 'kek_file = "kek"'),
    ((*BRAND, "issuer"), DELETE, "brands.acme.issuer", "is missing", 'issuer = "https://'),
    ((*BRAND, "redirect_uris"), DELETE, "brands.acme.redirect_uris", "is missing", "redirect_uris = ["),
    ((*ALLOW, "contexts"), DELETE, "callers.brand-service.allow[0].contexts", "is missing", "contexts = ["),
    # wrong kinds of value
    (("development",), "yes", "development", "must be true or false", "development = true"),
    (("development",), 1, "development", "must be true or false", "development = true"),
    (("server",), 7, "server", "must be a table", "see [server]"),
    (("brands",), [], "brands", "must be a table", "see [brands]"),
    (("brands",), {}, "brands", "must not be empty", "see [brands]"),
    ((*BRAND,), 7, "brands.acme", "must be a table", "see [brands.acme]"),
    (("callers", "bot", "allow"), [], "callers.bot.allow", "must not be empty", "see [callers.bot.allow]"),
    (("callers", "bot", "allow", 0), 7, "callers.bot.allow[0]", "must be a table", "see [callers.bot.allow]"),
    ((*BRAND, "client_id"), 7, "brands.acme.client_id", "must be a string", 'client_id = "tokenvault"'),
    ((*BRAND, "client_id"), "", "brands.acme.client_id", "must not be empty", "client_id = "),
    ((*BRAND, "redirect_uris"), "https://a.example", "brands.acme.redirect_uris", "must be a list", "= ["),
    (
        (*BRAND, "authorization_parameters"),
        {"max_age": 60},
        "brands.acme.authorization_parameters.max_age",
        "must be a string",
        'authorization_parameters = { audience = "orders" }',
    ),
    # addresses
    (("server", "listen"), [], "server.listen", "must not be empty", "listen = ["),
    (("server", "listen", 0), "7443", "server.listen[0]", "no address to listen on", '"127.0.0.1:7443"'),
    (("server", "listen", 0), "localhost:", "server.listen[0]", "no address to listen on", "write"),
    (("server", "listen", 0), "localhost:70000", "server.listen[0]", "no address to listen on", "write"),
    (("server", "listen", 0), "https://a:443/", "server.listen[0]", "no address to listen on", "write"),
    (("server", "listen", 0), "unix:", "server.listen[0]", "no path for a socket", "1 to 107 bytes"),
    (("server", "listen", 0), f"unix:/{'x' * 107}", "server.listen[0]", "no path for a socket", "107"),
    (("server", "listen"), ["a:1", "b:1", "a:1"], "server.listen", "same entry at [0] and [2]", "delete one"),
    # durations and the like
    (("renewal", "margin"), 60, "renewal.margin", "not a duration", '"15m"'),
    (("renewal", "margin"), "60", "renewal.margin", "not a duration", '"15m"'),
    (("renewal", "margin"), "", "renewal.margin", "not a duration", '"15m"'),
    (("renewal", "margin"), "30s1h", "renewal.margin", "not a duration", '"15m"'),
    (("renewal", "margin"), "-1s", "renewal.margin", "not a duration", '"15m"'),
    (("renewal", "margin"), "0s", "renewal.margin", "longer than nothing", '"15m"'),
    (("renewal", "margin"), "9" * 400 + "h", "renewal.margin", "not a duration", '"15m"'),
    (("renewal", "lease"), "10s", "renewal.lease", "not longer than renewal.redemption_deadline", "longer"),
    (("server", "log_level"), "loud", "server.log_level", "not one of the known values", "'warning'"),
    # files
    (("server", "certificate_file"), "no.pem", "server.certificate_file", "no file that can be", "create"),
    (("server", "client_ca_file"), ".", "server.client_ca_file", "no file that can be read", "create"),
    (("server", "private_key_file"), 7, "server.private_key_file", "must be a path", "in quotes"),
    (("keys", "kek_file"), "no-such", "keys.kek_file", "no file that can be read", "create"),
    (("keys", "kek_file"), "short", "keys.kek_file", "too short", "openssl rand -base64 32"),
    (("keys", "kek_file"), "empty", "keys.kek_file", "empty file", "put in"),
    (("keys", "previous_kek"), "file:short", "keys.previous_kek", "too short", "openssl rand -base64 32"),
    (("keys", "previous_kek"), "short", "keys.previous_kek", "no URI of a key", "file:/run/secrets/kek"),
    (("keys", "previous_kek"), "ftp:short", "keys.previous_kek", "no URI of a key", "file:/run/secrets/kek"),
    (("keys", "previous_kek"), "file://host/x", "keys.previous_kek", "no URI of a key", "file:/run/secrets"),
    (("keys", "kek"), "file:kek", "keys.kek", "is there beside keys.kek_file", "delete one of them"),
    (("keys", "kek"), "pkcs11:token=t", "keys.kek", "is no PKCS #11 URI with token, object", "pkcs11:token="),
    (
        ("keys", "kek"),
        "pkcs11:token=t;object=o?module-path=/m&pin-source=|pin",
        "keys.kek",
        "has its PIN elsewhere than in a file",
        "pin-source=file:",
    ),
    (
        ("keys", "kek"),
        "pkcs11:token=t;object=o?module-path=/m&pin-source=file:no-such",
        "keys.kek",
        "no file that can be read",
        "create",
    ),
    (("keys", "kek"), "aws-kms:alias/kek", "keys.kek", "is no URI of an AWS KMS key in a region", "?region="),
    (("keys", "kek"), "aws-kms:k?region=eu-1&x=y", "keys.kek", "is no URI of an AWS KMS key", "?region="),
    (
        ("keys", "kek"),
        "aws-kms:alias/kek?region=eu-central-1&endpoint=http://kms.example",
        "keys.kek",
        "is not safe in transit",
        "use https",
    ),
    (("keys", "kek"), "vault:kek", "keys.kek", "is no URI of a key-encryption key", "file:/run/secrets/kek"),
    ((*BRAND, "client_secret_file"), "no-such", "brands.acme.client_secret_file", "no file", "create"),
    ((*BRAND, "client_secret_file"), "x" * 300, "brands.acme.client_secret_file", "no file", "create"),
    ((*BRAND, "client_secret_file"), "a\0b", "brands.acme.client_secret_file", "must be a path", "quotes"),
    ((*BRAND, "client_secret_file"), "empty", "brands.acme.client_secret_file", "empty file", "put in"),
    ((*BRAND, "client_secret_file"), "newline", "brands.acme.client_secret_file", "empty file", "put in"),
    ((*BRAND, "client_secret_file"), "bytes", "brands.acme.client_secret_file", "no text file", "UTF-8"),
    ((*BRAND, "private_key_file"), "short", "brands.acme.private_key_file", "no usable private key", "PEM"),
    ((*BRAND, "jwks_file"), "short", "brands.acme.jwks_file", "no JWK set", '{"keys": […]}'),
    ((*BRAND, "jwks_file"), "no-keys.json", "brands.acme.jwks_file", "no JWK set", '{"keys": […]}'),
    ((*BRAND, "jwks_file"), "private.json", "brands.acme.jwks_file", "private keys", "public keys only"),
    ((*BRAND, "ca_file"), "no.pem", "brands.acme.ca_file", "no file that can be read", "create"),
    (("store", "path"), "no/such/folder.db", "store.path", "folder that does not exist", "create the folder"),
    (("store", "path"), ".", "store.path", "is a folder", "name a file"),
    # the store
    (("store", "url"), URL, "store.url", "is there beside store.path", "delete one of them"),
    (("store", "sslmode"), "disable", "store.sslmode", "is not used", "which url names"),
    (
        ("store",),
        {"url": "mysql://u@h/d"},
        "store.url",
        "is no URL of a PostgreSQL database",
        "postgresql://",
    ),
    (("store",), {"url": "postgresql://h/d"}, "store.url", "is no URL of a PostgreSQL database", "@db."),
    (("store",), {"url": "postgresql://u@h"}, "store.url", "is no URL of a PostgreSQL database", "@db."),
    (("store",), {"url": "postgresql://u@h:0/d"}, "store.url", "has a port that is none", "5432"),
    *(
        (("store",), {"url": f"postgresql://u@{host}/d"}, "store.url", "has a host that is no", "of several")
        for host in (
            "h1%2Ch2",
            "127.0.0.1%2Ch2",
            "%2Frun%2Cx",
            "%40h",
            "%5B%3A%3A1%5D",
            "a%3A5",
            "h%20x",
            "h%C3%A4",
        )
    ),
    *(
        (("store",), {"url": f"postgresql://{url}"}, "store.url", "has a percent-encoding of", "@db.")
        for url in ("u@h%/d", "u@%zz/d", "u@h/d%0", "u%00@h/d", "u%FF@h/d", "u@%2Frun%00x/d", "u@h/d%0A")
    ),
    (("store",), {"url": "postgresql://u:pw@h/d"}, "store.url", "has a password in it", "password_file"),
    (("store",), {"url": f"{URL}?sslmode=disable"}, "store.url", "has settings after", "keys of [store]"),
    (("store",), {"url": 7}, "store.url", "must be a string", "postgresql://"),
    (("store",), {"url": URL, "sslmode": "require"}, "store.sslmode", "known values", "'verify-full'"),
    (("store",), {"url": URL, "sslmode": "disable"}, "store.sslmode", "not safe in transit", "verify-full"),
    (("store",), {"url": URL, "sslmode": "verify-ca"}, "store.sslrootcert", "is missing", "own authorities"),
    (("store",), PLAIN | {"sslrootcert": "ca.pem"}, "store.sslrootcert", "is not used", "delete it"),
    (("store",), {"url": URL, "password_file": "none"}, "store.password_file", "names no file", "create"),
    (("store",), {"url": URL, "connections": 1}, "store.connections", "is not usable", "connections = 8"),
    # authorization servers
    ((*BRAND, "issuer"), "login.acme.example", "brands.acme.issuer", "not a URL", "absolute URL"),
    ((*BRAND, "issuer"), "https://[::1", "brands.acme.issuer", "not a URL", "absolute URL"),
    ((*BRAND, "issuer"), "https://a.example:99999", "brands.acme.issuer", "not a URL", "absolute URL"),
    ((*BRAND, "issuer"), "https://a.example/ b", "brands.acme.issuer", "not a URL", "absolute URL"),
    ((*BRAND, "issuer"), "https://a.example?x=1", "brands.acme.issuer", "has a query", "delete it"),
    ((*BRAND, "issuer"), "https://a.example#x", "brands.acme.issuer", "has a fragment", "delete it"),
    ((*BRAND, "issuer"), "https://u:p@a.example", "brands.acme.issuer", "user name", "file of their own"),
    ((*BRAND, "issuer"), "http://a.example", "brands.acme.issuer", "not safe in transit", "use https"),
    ((*BRAND, "token_endpoint"), "ftp://a.example", "brands.acme.token_endpoint", "not a URL", "absolute"),
    (
        (*BRAND, "token_endpoint"),
        "https://a.example/token",
        "brands.acme.authorization_endpoint",
        "is missing",
        "delete token_endpoint",
    ),
    # the client registration
    ((*BRAND, "redirect_uris"), [], "brands.acme.redirect_uris", "must not be empty", "redirect_uris = ["),
    (
        (*BRAND, "redirect_uris"),
        ["https://a.example", "https://b.example/#x"],
        "brands.acme.redirect_uris[1]",
        "has a fragment",
        "delete it",
    ),
    ((*BRAND, "redirect_uris", 0), "app:/cb", "brands.acme.redirect_uris[0]", "not a URL", "absolute URL"),
    ((*BRAND, "redirect_uris", 0), "http://a.example", "brands.acme.redirect_uris[0]", "not safe", "https"),
    ((*BRAND, "client_auth"), "tls", "brands.acme.client_auth", "known values", "'private_key_jwt'"),
    ((*BRAND, "client_auth"), "none", "brands.acme.client_secret_file", "is not used", "delete it"),
    ((*BRAND, "client_secret_file"), DELETE, "brands.acme.client_secret_file", "is missing", "add it"),
    ((*BRAND, "private_key_id"), "1", "brands.acme.private_key_id", "is not used", "add private_key_file"),
    ((*BRAND, "id_token_algorithms"), ["none"], "brands.acme.id_token_algorithms[0]", "known", "'ES256'"),
    ((*BRAND, "id_token_algorithms"), ["HS256"], "brands.acme.id_token_algorithms[0]", "known", "'ES256'"),
    (
        (*BRAND, "authorization_parameters", "state"),
        "x",
        "brands.acme.authorization_parameters.state",
        "the vault's own to set",
        "delete it",
    ),
    (
        (*BRAND, "allowed_authorization_parameters"),
        ["prompt", "redirect_uri"],
        "brands.acme.allowed_authorization_parameters[1]",
        "not one of the known values",
        "'prompt'",
    ),
    # contexts
    ((*BRAND, "consumer", "scopes"), [], "brands.acme.consumer.scopes", "not be empty", "scopes = ["),
    ((*BRAND, "consumer", "scopes"), ["a b"], "brands.acme.consumer.scopes[0]", "not a scope", "per entry"),
    (
        (*BRAND, "consumer", "allowed_scopes"),
        ["openid"],
        "brands.acme.consumer.allowed_scopes",
        "lacks scopes",
        "add offline_access",
    ),
    (
        (*BRAND, "consumer", "session_idle"),
        "13h",
        "brands.acme.consumer.session_idle",
        "longer than session_absolute",
        "shorter",
    ),
    (("brands", "a b"), SPLIT, 'brands."a b"', "not a usable name", "letters"),
    (
        ("brands", "b"),
        {**SPLIT, "conversation": DELETE},
        "brands.b",
        "no kind of context switched on",
        "[….consumer]",
    ),
    # callers
    (
        ("callers", "bot", "identities"),
        ["bot.example.com", "spiffe://tokenvault.test/brand-service"],
        "callers.brand-service.identities[0]",
        "is also caller bot's",
        "certificates of its own",
    ),
    (
        ("callers", "bot", "identities"),
        ["spiffe://tokenvault.test/*"],
        "callers.brand-service.identities[0]",
        "is also caller bot's",
        "certificates of its own",
    ),
    (
        ("callers", "brand-service", "identities"),
        ["spiffe://tokenvault.test/*"],
        "callers.brand-service.identities[0]",
        "is also caller bot's",
        "certificates of its own",
    ),
    (("callers", "bot", "identities", 0), "spiffe://a/*b", "callers.bot.identities[0]", "SPIFFE", "below"),
    (("callers", "bot", "identities", 0), "spiffe:///*", "callers.bot.identities[0]", "SPIFFE", "below"),
    (("callers", "bot", "identities"), [], "callers.bot.identities", "must not be empty", "spiffe://"),
    (("callers", "bot", "identities", 0), "CN=bot", "callers.bot.identities[0]", "neither", "DNS name"),
    (
        ("callers", "bot", "identities", 0),
        "*.example.com",
        "callers.bot.identities[0]",
        "neither",
        "wildcard",
    ),
    (("callers", "bot", "identities", 0), "Bot.example.com", "callers.bot.identities[0]", "neither", "lower"),
    (
        ("callers", "bot", "identities", 0),
        "spiffe://",
        "callers.bot.identities[0]",
        "no SPIFFE ID",
        "in full",
    ),
    (("callers", "bot", "identities", 0), "spiffe://a", "callers.bot.identities[0]", "no SPIFFE ID", "full"),
    (("callers", "bot", "identities", 0), "spiffe://a/../b", "callers.bot.identities[0]", "SPIFFE", "full"),
    (("callers", "bot", "identities", 0), "https://a/b", "callers.bot.identities[0]", "neither", "spiffe://"),
    # access tokens of callers
    ((*BEARER, "issuer"), DELETE, f"{SHOWN}.issuer", "is missing", 'issuer = "https://'),
    ((*BEARER, "issuer"), "https://a.example?x", f"{SHOWN}.issuer", "has a query", "delete it"),
    ((*BEARER, "audience"), DELETE, f"{SHOWN}.audience", "is missing", "audience = "),
    ((*BEARER, "audience"), "", f"{SHOWN}.audience", "must not be empty", "audience = "),
    ((*BEARER, "scope"), "a", f"{SHOWN}.scope", "not a known key", "'scopes'"),
    ((*BEARER, "scopes"), [], f"{SHOWN}.scopes", "must not be empty", "scopes = ["),
    ((*BEARER, "scopes"), ["a b"], f"{SHOWN}.scopes[0]", "not a scope", "per entry"),
    ((*BEARER, "client_ids"), [], f"{SHOWN}.client_ids", "must not be empty", "client_ids = ["),
    ((*BEARER, "client_ids"), ["a", "a"], f"{SHOWN}.client_ids", "same entry", "delete one"),
    ((*BEARER, "algorithms"), ["HS256"], f"{SHOWN}.algorithms[0]", "known values", "'ES256'"),
    ((*BEARER, "algorithms"), ["none"], f"{SHOWN}.algorithms[0]", "known values", "'ES256'"),
    ((*BEARER, "require_certificate_binding"), 1, f"{SHOWN}.require_certificate_binding", "true or", "true"),
    ((*BEARER, "jwks_uri"), "http://a.example", f"{SHOWN}.jwks_uri", "not safe in transit", "use https"),
    ((*BEARER, "jwks_file"), "private.json", f"{SHOWN}.jwks_file", "private keys", "public keys only"),
    ((*BEARER, "ca_file"), "no.pem", f"{SHOWN}.ca_file", "no file that can be read", "create"),
    # policy
    ((*ALLOW, "rpcs"), ["GetTokens"], "callers.brand-service.allow[0].rpcs[0]", "known", "'GetToken'"),
    ((*ALLOW, "rpcs"), [], "callers.brand-service.allow[0].rpcs", "must not be empty", "rpcs = ["),
    ((*ALLOW, "contexts"), ["user"], "callers.brand-service.allow[0].contexts[0]", "known", "'consumer'"),
    ((*ALLOW, "brands"), ["acne"], "callers.brand-service.allow[0].brands[0]", "no configured", "'acme'?"),
    ((*ALLOW, "brands"), ["*", "acme"], "callers.brand-service.allow[0].brands", "among others", "either"),
    ((*ALLOW, "scopes"), ["openit"], "callers.brand-service.allow[0].scopes[0]", "none of", "'openid'?"),
    (
        (*BRAND, "consumer"),
        DELETE,
        "callers.bot.allow[0].contexts[0]",
        "for none of these",
        "consumer] table",
    ),
]


@pytest.mark.parametrize(
    ("path", "value", "key", "what", "remedy"), KEYS, ids=[f"{k}: {what}" for _, _, k, what, _ in KEYS]
)
def test_a_problem_names_file_key_and_remedy(
    document: Document, path: Path_, value: Any, key: str, what: str, remedy: str
) -> None:
    document.file("short", "c2hvcnQ=\n")
    document.file("empty", "")
    document.file("newline", "\n")
    (document.folder / "bytes").write_bytes(b"\xff\xfe")
    document.file("no-keys.json", '{"keys": []}')
    document.file("private.json", json.dumps({"keys": [{"kty": "EC", "d": "eA"}]}))
    if path[:3] == BEARER:
        document.set(*BEARER, to={"issuer": "https://login.example", "audience": "https://vault.example"})
    if isinstance(value, dict):
        value = {k: v for k, v in value.items() if v is not DELETE}
    document.set(*path, to=value)
    with pytest.raises(ConfigError) as caught:
        document.load()
    problem = caught.value.problems[0]
    assert problem.key == key
    assert what in problem.what
    assert remedy in problem.remedy
    assert str(problem).startswith(f"{document.path}: {key} ")


def test_all_problems_are_told_at_once(document: Document) -> None:
    document.set("server", "listen", to=[])
    document.set(*BRAND, "issuer", to="nowhere")
    document.set("callers", "bot", "identity", to=[])
    with pytest.raises(ConfigError) as caught:
        document.load()
    keys = {problem.key for problem in caught.value.problems}
    assert keys == {"server.listen", "brands.acme.issuer", "callers.bot.identity"}
    assert len(str(caught.value).splitlines()) == 3


def test_who_starts_for_a_brand_with_codes_may_bring_them(document: Document) -> None:
    document.set(*BRAND, "confirmation_code", to=True)
    document.load()
    document.set("callers", "bot", "allow", 0, "rpcs", to=["StartDelegation", "GetToken"])
    with pytest.raises(ConfigError) as caught:
        document.load()
    told = [(problem.key, problem.what) for problem in caught.value.problems]
    assert told == [
        (
            "callers.bot.allow",
            f"has StartDelegation for {kind}s of acme, whose confirmation_code it may not bring",
        )
        for kind in ("consumer", "conversation")
    ]
    more = dict(document.content["callers"]["bot"]["allow"][0], rpcs=["ConfirmDelegation"], brands=["acme"])
    document.content["callers"]["bot"]["allow"].append(more)
    document.load()
    more["contexts"] = ["consumer"]
    with pytest.raises(ConfigError, match="for conversations of acme"):
        document.load()


def test_http_needs_development(document: Document) -> None:
    document.set("development", to=DELETE)
    with pytest.raises(ConfigError) as caught:
        document.load()
    assert [problem.key for problem in caught.value.problems] == [
        "brands.acme.issuer",
        "brands.acme.redirect_uris[0]",
    ]
    assert all("development = true" in problem.remedy for problem in caught.value.problems)


def test_explicit_endpoints_need_keys_for_id_tokens(document: Document) -> None:
    document.set(*BRAND, "authorization_endpoint", to="https://a.example/authorize")
    document.set(*BRAND, "token_endpoint", to="https://a.example/token")
    with pytest.raises(ConfigError) as caught:
        document.load()
    [problem] = caught.value.problems
    assert (problem.key, problem.what) == ("brands.acme.jwks_uri", "is missing")
    document.set(*BRAND, "consumer", "scopes", to=["orders"])
    assert not document.load().brands["acme"].discovers


def test_keys_are_published_or_given_not_both(document: Document) -> None:
    document.file("jwks.json", '{"keys": [{"kty": "EC", "crv": "P-256", "x": "eA", "y": "eQ"}]}')
    document.set(*BRAND, "jwks_file", to="jwks.json")
    document.set(*BRAND, "jwks_uri", to="https://a.example/jwks")
    with pytest.raises(ConfigError) as caught:
        document.load()
    assert [problem.key for problem in caught.value.problems] == ["brands.acme.jwks_file"]


def test_a_callers_access_tokens_have_keys_from_one_place(document: Document) -> None:
    document.file("jwks.json", '{"keys": [{"kty": "EC", "crv": "P-256", "x": "eA", "y": "eQ"}]}')
    table = {"issuer": "http://127.0.0.1:9400", "audience": "vault", "jwks_file": "jwks.json"}
    document.set(*BEARER, to=table)
    assert document.load()
    document.set(*BEARER, "jwks_uri", to="http://127.0.0.1:9400/jwks")
    document.set(*BEARER, "ca_file", to="ca.pem")
    with pytest.raises(ConfigError) as caught:
        document.load()
    assert {(problem.key, problem.what) for problem in caught.value.problems} == {
        (f"{SHOWN}.jwks_file", "is there beside jwks_uri"),
        (f"{SHOWN}.ca_file", "is not used"),
    }


def test_a_callers_issuer_is_safe_in_transit(document: Document) -> None:
    document.set("development", to=DELETE)
    document.set(*BRAND, "issuer", to="https://login.example")
    document.set(*BRAND, "redirect_uris", to=["https://bots.example/"])
    document.set(*BEARER, to={"issuer": "http://127.0.0.1:9400", "audience": "vault"})
    document.set(*BEARER, "jwks_uri", to="http://127.0.0.1:9400/jwks")
    with pytest.raises(ConfigError) as caught:
        document.load()
    assert [problem.key for problem in caught.value.problems] == [f"{SHOWN}.issuer", f"{SHOWN}.jwks_uri"]
    assert all("development = true" in problem.remedy for problem in caught.value.problems)


def test_private_key_jwt_needs_a_key_and_no_secret(document: Document) -> None:
    document.set(*BRAND, "client_auth", to="private_key_jwt")
    with pytest.raises(ConfigError) as caught:
        document.load()
    assert {(problem.key, problem.what) for problem in caught.value.problems} == {
        ("brands.acme.client_secret_file", "is not used"),
        ("brands.acme.private_key_file", "is missing"),
    }


@pytest.mark.parametrize(
    ("content", "what", "remedy"),
    [
        (None, "no such file", "tokenvault init"),
        (b"\xff", "cannot be read", "UTF-8"),
        (b"[server\n", "not TOML: line 1, column 8", "mend that line"),
        (b"a = canary-1\n", "not TOML: line 1, column 5", "strings stand in quotes"),
    ],
)
def test_a_file_that_is_no_configuration(
    tmp_path: Path, content: bytes | None, what: str, remedy: str
) -> None:
    path = tmp_path / "tokenvault.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    [problem] = caught.value.problems
    assert problem.key == ""
    assert what in problem.what
    assert remedy in problem.remedy
    assert "canary" not in str(problem)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((*BRAND, "client_secret_file"), "canary-1"),
        ((*BRAND, "client_secret"), "canary-1"),
        ((*BRAND, "client_secret_file"), "canary-1" * 50),
        ((*BRAND, "private_key_file"), "canary-file"),
        ((*BRAND, "jwks_file"), "canary-file"),
        ((*BRAND, "client_auth"), "canary-1"),
        ((*BRAND, "issuer"), "https://user:canary-1@login.acme.example"),
        ((*BRAND, "authorization_parameters"), "canary-1"),
        (("keys", "kek_file"), "canary-1"),
        (("keys", "kek_file"), "canary-file"),
        (("keys", "kek"), "canary-1"),
        (("server", "listen", 0), "canary-1"),
        (("renewal", "margin"), "canary-1"),
    ],
)
def test_a_secret_in_the_wrong_place_is_not_repeated(document: Document, path: Path_, value: str) -> None:
    document.file("canary-file", "canary-content")
    document.set(*path, to=value)
    with pytest.raises(ConfigError) as caught:
        document.load()
    error = caught.value
    assert "canary" not in str(error) + repr(error) + repr(error.problems)
    assert error.__cause__ is None
    assert error.__context__ is None
