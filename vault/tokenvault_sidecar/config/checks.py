"""What must fit together across keys, once each key is valid by itself."""

import sys
from collections.abc import Iterator, Mapping
from itertools import product

from tokenvault_sidecar.config.bearer import BearerTable
from tokenvault_sidecar.config.brands import BrandTable
from tokenvault_sidecar.config.callers import ANY, AllowTable
from tokenvault_sidecar.config.problems import nearest
from tokenvault_sidecar.config.schema import Config, KeysTable
from tokenvault_sidecar.core.model import ContextKind
from tokenvault_sidecar.core.policy import BELOW, Rpc

Finding = tuple[tuple[str | int, ...], str, str]
"""A key's path, what is wrong with it, and the remedy."""

# What the vault itself says in an authorization request, or must not be said in one.
_PROTECTED = frozenset(
    {
        "client_id",
        "client_secret",
        "code_challenge",
        "code_challenge_method",
        "nonce",
        "redirect_uri",
        "request",
        "request_uri",
        "response_mode",
        "response_type",
        "scope",
        "state",
    }
)
_USES_SECRET = ("client_secret_basic", "client_secret_post")
_USES_KEY = ("private_key_jwt",)
_URLS = ("issuer", "authorization_endpoint", "token_endpoint", "revocation_endpoint", "jwks_uri")


def check(config: Config) -> Iterator[Finding]:
    """Everything that does not fit."""
    yield from _limits(config)
    yield from _workers(config)
    yield from _keks(config.keys)
    for brand, table in config.brands.items():
        for key, what, remedy in _brand(table, development=config.development):
            yield ("brands", brand, *key), what, remedy
    yield from _callback(config)
    yield from _identities(config)
    yield from _confirming(config)
    for name, caller in config.callers.items():
        if caller.bearer:
            for key, what, remedy in _bearer(caller.bearer, development=config.development):
                yield ("callers", name, "bearer", *key), what, remedy
        for index, entry in enumerate(caller.allow):
            for key, what, remedy in _allow(entry, config.brands):
                yield ("callers", name, "allow", index, *key), what, remedy


def _limits(config: Config) -> Iterator[Finding]:
    if config.renewal.lease <= config.renewal.redemption_deadline:
        remedy = "make it longer, or else two processes redeem one refresh token"
        yield ("renewal", "lease"), "is not longer than renewal.redemption_deadline", remedy
    for key, what, remedy in config.store.problems():
        yield ("store", *key), what, remedy


def _workers(config: Config) -> Iterator[Finding]:
    server = config.server
    if server.workers == 1:
        return
    if sys.platform != "linux":
        yield ("server", "workers"), "is more than one, which takes Linux", "set it to 1"
    for index, address in enumerate(server.listen):
        if address.startswith("unix:"):
            remedy = 'listen on "127.0.0.1:7443", or set server.workers = 1'
            yield ("server", "listen", index), "is a unix socket, which several workers cannot share", remedy


def _keks(table: KeysTable) -> Iterator[Finding]:
    if not (table.kek or table.kek_file):
        yield ("keys", "kek_file"), "is missing", 'add it, as in kek_file = "kek", or kek with a URI'
    for file, uri in (("kek_file", "kek"), ("previous_kek_file", "previous_kek")):
        if getattr(table, file) and getattr(table, uri):
            yield ("keys", uri), f"is there beside keys.{file}", "delete one of them"


def _callback(config: Config) -> Iterator[Finding]:
    callback = config.callback
    if callback is None:
        return
    pair = ("certificate_file", "private_key_file")
    missing = [key for key in pair if getattr(callback, key) is None]
    if len(missing) == 1:
        yield ("callback", missing[0]), "is missing", "add it, or leave both to an ingress that ends TLS"


def _brand(table: BrandTable, *, development: bool) -> Iterator[Finding]:
    yield from _endpoints(table)
    yield from _client(table)
    yield from _parameters(table)
    urls: dict[tuple[str | int, ...], str | None] = {(key,): getattr(table, key) for key in _URLS}
    urls |= {("redirect_uris", index): uri for index, uri in enumerate(table.redirect_uris)}
    if not development:
        yield from _plain(urls)
    if not table.contexts:
        yield (), "has no kind of context switched on", "add its [….consumer] or [….conversation] table"
    for kind, settings in table.contexts.items():
        if missing := set(settings.scopes) - settings.allowed_scopes:
            remedy = f"add {' '.join(sorted(missing))}, which scopes asks for"
            yield (kind.value, "allowed_scopes"), "lacks scopes that are asked for", remedy
    if table.consumer and table.consumer.session_idle > table.consumer.session_absolute:
        yield ("consumer", "session_idle"), "is longer than session_absolute", "make it as long or shorter"


def _plain(urls: Mapping[tuple[str | int, ...], str | None]) -> Iterator[Finding]:
    for key, url in urls.items():
        if url and not url.lower().startswith("https:"):
            yield key, "is not safe in transit", "use https, or set development = true at the top"


def _endpoints(table: BrandTable) -> Iterator[Finding]:
    pair = ("authorization_endpoint", "token_endpoint")
    given = [key for key in pair if getattr(table, key)]
    for key in pair:
        if len(given) == 1 and key not in given:
            yield (key,), "is missing", f"add it, or delete {given[0]} to have both discovered"
    yield from _keys(table)
    consumer = table.contexts.get(ContextKind.CONSUMER)
    verifies = consumer and "openid" in consumer.allowed_scopes
    if given and verifies and not (table.jwks_uri or table.jwks_file):
        remedy = "add jwks_uri or jwks_file: id tokens of consumers are verified with it"
        yield ("jwks_uri",), "is missing", remedy


def _keys(table: BrandTable | BearerTable) -> Iterator[Finding]:
    if table.jwks_uri and table.jwks_file:
        yield ("jwks_file",), "is there beside jwks_uri", "delete one of them"


def _client(table: BrandTable) -> Iterator[Finding]:
    for key, methods in (("client_secret_file", _USES_SECRET), ("private_key_file", _USES_KEY)):
        if table.client_auth in methods and not getattr(table, key):
            remedy = f"add it, as client_auth is {table.client_auth}, or choose another client_auth"
            yield (key,), "is missing", remedy
        if table.client_auth not in methods and getattr(table, key):
            remedy = f"delete it, or choose another client_auth than {table.client_auth}"
            yield (key,), "is not used", remedy
    if table.private_key_id and not table.private_key_file:
        yield ("private_key_id",), "is not used", "delete it, or add private_key_file"


def _parameters(table: BrandTable) -> Iterator[Finding]:
    for parameter in table.authorization_parameters:
        if parameter in _PROTECTED:
            yield ("authorization_parameters", parameter), "is the vault's own to set", "delete it"


def _identities(config: Config) -> Iterator[Finding]:
    owners = [
        (identity, name, index)
        for name, caller in config.callers.items()
        for index, identity in enumerate(caller.identities)
    ]
    for position, (identity, name, index) in enumerate(owners):
        for other, owner, _ in owners[:position]:
            if owner != name and (_covers(identity, other) or _covers(other, identity)):
                remedy = "give each caller certificates of its own, or make them one caller"
                yield ("callers", name, "identities", index), f"is also caller {owner}'s", remedy


def _confirming(config: Config) -> Iterator[Finding]:
    guarded = {
        (brand, kind)
        for brand, table in config.brands.items()
        if table.confirmation_code
        for kind in table.contexts
    }
    for name, caller in config.callers.items():
        starts, confirms = (
            {
                (brand, kind)
                for entry in caller.allow
                if rpc in entry.rpcs
                for brand, kind in product(config.brands, entry.contexts)
                if entry.brands == (ANY,) or brand in entry.brands
            }
            for rpc in (Rpc.START_DELEGATION, Rpc.CONFIRM_DELEGATION)
        )
        for brand, kind in sorted(guarded & starts - confirms):
            what = f"has StartDelegation for {kind}s of {brand}, whose confirmation_code it may not bring"
            yield ("callers", name, "allow"), what, "add ConfirmDelegation to its rpcs for this brand"


def _covers(identity: str, other: str) -> bool:
    return identity == other or (identity.endswith(BELOW) and other.startswith(identity[:-1]))


def _bearer(table: BearerTable, *, development: bool) -> Iterator[Finding]:
    yield from _keys(table)
    if table.jwks_file and table.ca_file:
        yield ("ca_file",), "is not used", "delete it: with jwks_file the issuer is never asked"
    if not development:
        yield from _plain({("issuer",): table.issuer, ("jwks_uri",): table.jwks_uri})


def _allow(entry: AllowTable, brands: dict[str, BrandTable]) -> Iterator[Finding]:
    for index, brand in enumerate(entry.brands):
        if brand != ANY and brand not in brands:
            yield ("brands", index), "is no configured brand", nearest(brand, brands)
    meant = [table for brand, table in brands.items() if entry.brands == (ANY,) or brand in entry.brands]
    if not meant:
        return
    for index, kind in enumerate(entry.contexts):
        if not any(kind in table.contexts for table in meant):
            remedy = f"delete it, or add a [brands.….{kind}] table"
            yield ("contexts", index), "is switched on for none of these brands", remedy
    allowed = {
        scope
        for table, kind in product(meant, entry.contexts)
        if (settings := table.contexts.get(kind))
        for scope in settings.allowed_scopes
    }
    for index, scope in enumerate(entry.scopes):
        if scope != ANY and scope not in allowed:
            yield ("scopes", index), "is allowed by none of these brands", nearest(scope, allowed)
