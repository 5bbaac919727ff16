"""Bearer tokens: what is accepted, and what is wrong with each that is not."""

import asyncio
import hmac
import json
import time
import traceback
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

import pytest
from cryptography.hazmat.primitives import serialization

from tests.adapters.bearer_world import (
    AUDIENCE,
    CERTIFICATE,
    OTHER_CERTIFICATE,
    SCOPE,
    Clock,
    access_token,
    bound_to,
    signed,
    verifier_of,
)
from tests.authserver.clients import BASIC, SERVICE
from tests.authserver.fixtures import StartProvider
from tests.authserver.oidc import READ_SCOPE, VAULT_AUDIENCE, OidcProvider
from tests.authserver.plain_client import PlainClient
from tests.authserver.scripted import Reply, ScriptedServer, new_key
from tokenvault_sidecar.adapters.bearer import BearerSettings, BearerVerifier
from tokenvault_sidecar.core.errors import BearerInvalid, ServerMisconfigured, ServerUnavailable
from tokenvault_sidecar.core.ports import Bearer

DISCOVERY = "/.well-known/openid-configuration"
Make = Callable[..., BearerVerifier]


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


@pytest.fixture
async def make(server: ScriptedServer) -> AsyncIterator[Make]:
    made: list[BearerVerifier] = []

    def make(**given: Any) -> BearerVerifier:
        made.append(verifier_of(server, **given))
        return made[-1]

    yield make
    for verifier in made:
        await verifier.aclose()


async def accepted(verifier: Bearer, token: str, certificate: bytes = CERTIFICATE) -> None:
    await verifier.verify([f"Bearer {token}"], certificate)


async def refused(verifier: Bearer, *shown: str | bytes, certificate: bytes = CERTIFICATE) -> BearerInvalid:
    with pytest.raises(BearerInvalid) as caught:
        await verifier.verify(shown, certificate)
    return caught.value


@pytest.mark.parametrize("kind", ["RSA", "EC", "OKP"])
async def test_valid(server: ScriptedServer, make: Make, kind: Literal["RSA", "EC", "OKP"]) -> None:
    server.rotate(kind)
    await accepted(make(), access_token(server))


@pytest.mark.parametrize(
    "change",
    [
        {"header": {"typ": "application/at+JWT"}},
        {"header": {"x-unknown": 1, "x5c": ["not", "looked", "at"]}},
        {"aud": ["https://elsewhere.example", AUDIENCE]},
        {"scope": SCOPE},
        {"nbf": int(time.time())},
        {"drop": ["sub", "jti"]},
        {"auth_time": "never", "amr": 7, "groups": "all"},
        {"cnf": bound_to(CERTIFICATE)},
        {"cnf": None},
    ],
    ids=lambda change: " ".join(change),
)
async def test_valid_in_other_ways(server: ScriptedServer, make: Make, change: dict[str, Any]) -> None:
    await accepted(make(), access_token(server, **change))


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER   "])
async def test_the_scheme_has_no_case(server: ScriptedServer, make: Make, scheme: str) -> None:
    await make().verify([scheme + access_token(server)], CERTIFICATE)
    await make().verify([(scheme + access_token(server)).encode()], CERTIFICATE)


async def test_valid_with_pss(server: ScriptedServer, make: Make) -> None:
    server.rotate("RSA")
    await accepted(make(), access_token(server, header={"alg": "PS256"}))


# Forged


def _public_key_as_secret(server: ScriptedServer) -> str:
    key: Any = server.rotate("RSA")
    pem = key.public_key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    _, payload, _ = access_token(server).split(".")
    header = _part(json.dumps({"alg": "HS256", "typ": "at+jwt", "kid": key.kid}).encode())
    return f"{header}.{payload}.{_part(hmac.digest(pem, f'{header}.{payload}'.encode(), 'sha256'))}"


def _part(octets: bytes) -> str:
    return urlsafe_b64encode(octets).rstrip(b"=").decode()


def _embedded(server: ScriptedServer, **header: object) -> str:
    key = new_key()
    return access_token(server, key=key, header={"jwk": key.as_dict(private=False), **header})


def _pointed_to(server: ScriptedServer, name: str) -> str:
    key = new_key()
    server.on("/forged-keys", Reply(json={"keys": [key.as_dict(private=False)]}))
    return access_token(server, key=key, header={name: f"{server.url}/forged-keys"})


def _kid_of_another(server: ScriptedServer) -> str:
    return access_token(server, key=new_key(), header={"kid": server.keys[0].kid})


def _tampered(server: ScriptedServer) -> str:
    header, _, signature = access_token(server).split(".")
    _, payload, _ = access_token(server, scope=f"{SCOPE} admin").split(".")
    return f"{header}.{payload}.{signature}"


def _demanding(server: ScriptedServer) -> str:
    _, payload, signature = access_token(server).split(".")
    header = json.dumps({"alg": "ES256", "typ": "at+jwt", "crit": ["exp"], "exp": 1})
    return f"{_part(header.encode())}.{payload}.{signature}"


Forge = Callable[[ScriptedServer], str]
NO_KEY = "signed with a key the issuer does not publish"
NO_TYPE = "its typ does not say"
NO_JWT = "not a signed JWT"

FORGED: dict[str, tuple[Forge, str]] = {
    "alg none": (lambda s: access_token(s, header={"alg": "none"}), "not signed with an allowed algorithm"),
    "HS256 with the public key as secret": (_public_key_as_secret, "not signed with an allowed algorithm"),
    "wrong aud": (lambda s: access_token(s, aud="https://elsewhere.example"), "its aud does not name"),
    "aud that begins alike": (lambda s: access_token(s, aud=AUDIENCE + "/x"), "its aud does not name"),
    "several aud, all wrong": (lambda s: access_token(s, aud=["a", "b"]), "its aud does not name"),
    "aud of a wrong kind": (lambda s: access_token(s, aud={AUDIENCE: 1}), "its aud"),
    "no aud": (lambda s: access_token(s, drop=["aud"]), "its aud is missing"),
    "wrong iss": (lambda s: access_token(s, iss="https://evil.example"), "its iss is another issuer"),
    "iss with a slash more": (lambda s: access_token(s, iss=s.issuer + "/"), "its iss is another issuer"),
    "no iss": (lambda s: access_token(s, drop=["iss"]), "its iss is missing"),
    "foreign kid": (lambda s: access_token(s, key=new_key()), NO_KEY),
    "no kid, foreign key": (lambda s: access_token(s, key=new_key(), header={"kid": None}), NO_KEY),
    "kid of another key": (_kid_of_another, "its signature does not verify"),
    "kid of a wrong kind": (lambda s: access_token(s, key=new_key(), header={"kid": ["x"]}), NO_KEY),
    "embedded jwk": (_embedded, NO_KEY),
    "embedded jwk without kid": (lambda s: _embedded(s, kid=None), NO_KEY),
    "embedded jwk, published kid": (lambda s: _embedded(s, kid=s.keys[0].kid), "signature does not verify"),
    "jku": (lambda s: _pointed_to(s, "jku"), NO_KEY),
    "x5u": (lambda s: _pointed_to(s, "x5u"), NO_KEY),
    "tampered payload": (_tampered, "its signature does not verify"),
    "crit": (_demanding, "its header demands an extension"),
    "expired": (lambda s: access_token(s, exp=int(time.time()) - 60), "it has expired"),
    "no exp": (lambda s: access_token(s, drop=["exp"]), "its exp is missing"),
    "exp of a wrong kind": (lambda s: access_token(s, exp="tomorrow"), "its exp is not a time"),
    "exp that never comes": (lambda s: access_token(s, exp=float("nan")), "its exp is not a time"),
    "not yet valid": (lambda s: access_token(s, nbf=int(time.time()) + 60), "its nbf is in the future"),
    "issued in the future": (
        lambda s: access_token(s, iat=int(time.time()) + 60),
        "its iat is in the future",
    ),
    "no iat": (lambda s: access_token(s, drop=["iat"]), "its iat is missing"),
    "typ JWT": (lambda s: access_token(s, header={"typ": "JWT"}), NO_TYPE),
    "typ of a wrong kind": (lambda s: access_token(s, header={"typ": ["at+jwt"]}), NO_TYPE),
    "no typ": (lambda s: access_token(s, header={"typ": None}), NO_TYPE),
    "an id token": (lambda s: s.mint(client_id=AUDIENCE, scope=SCOPE), NO_TYPE),
    "no scope": (lambda s: access_token(s, drop=["scope"]), "its scope does not hold"),
    "another scope": (lambda s: access_token(s, scope="openid"), "its scope does not hold"),
    "a scope that begins alike": (lambda s: access_token(s, scope=SCOPE + "s"), "its scope does not hold"),
    "scope as a list": (lambda s: access_token(s, scope=[SCOPE]), "its scope does not hold"),
    "no client_id": (lambda s: access_token(s, drop=["client_id"]), "its client_id is missing"),
    "empty client_id": (lambda s: access_token(s, client_id=""), "its client_id is missing"),
    "client_id of a wrong kind": (lambda s: access_token(s, client_id=["shop"]), "its client_id is missing"),
    "another client's certificate": (
        lambda s: access_token(s, cnf=bound_to(OTHER_CERTIFICATE)),
        "not bound to this caller's certificate",
    ),
    "bound to a DPoP key": (lambda s: access_token(s, cnf={"jkt": "x"}), "not bound to this caller's"),
    "cnf of a wrong kind": (lambda s: access_token(s, cnf="x"), "not bound to this caller's"),
    "thumbprint of a wrong kind": (lambda s: access_token(s, cnf={"x5t#S256": 7}), "not bound to this"),
    "1 MB header": (lambda s: access_token(s, header={"x": "x" * 2**20}), "larger than 8192 bytes"),
    "8 KiB and one byte": (lambda s: "x" * (8193 - len("Bearer ")), "larger than 8192 bytes"),
    "8 KiB of dots": (lambda s: "." * (8192 - len("Bearer ")), NO_JWT),
    "deep payload": (lambda s: f"e30.{'W1tb' * 1500}.e30", NO_JWT),
    "payload that is no object": (
        lambda s: signed([], s.keys[0], {"typ": "at+jwt"}),  # type: ignore[arg-type]  # the test's point
        "its payload is not a JSON object",
    ),
    "opaque": (lambda s: "vR3xTq0pZ2m", NO_JWT),
    "encrypted": (lambda s: "a.b.c.d.e", NO_JWT),
    "not base64": (lambda s: "+++.///.+++", NO_JWT),
    "not base64 inside": (lambda s: access_token(s).replace(".", ".+", 1), NO_JWT),
    "truncated": (lambda s: access_token(s)[:-20], "its signature does not verify"),
    "without its signature": (lambda s: access_token(s).rpartition(".")[0], NO_JWT),
    "with an empty signature": (lambda s: access_token(s).rpartition(".")[0] + ".", "does not verify"),
    "two in one, as a proxy joins them": (
        lambda s: f"{access_token(s)}, Bearer {access_token(s)}",
        'not "Bearer" and a token',
    ),
}


@pytest.mark.parametrize(("forge", "says"), FORGED.values(), ids=FORGED)
async def test_forged(server: ScriptedServer, make: Make, forge: Forge, says: str) -> None:
    """Each is refused for what is wrong with it, and nothing of it is told."""
    verifier = make()
    token = forge(server)
    error = await refused(verifier, f"Bearer {token}")
    assert says in error.message
    assert "caller 'shop'" in error.message
    assert f"{server.issuer} issued for {AUDIENCE}, with scope {SCOPE}" in error.message
    assert error.retry_after is None
    told = "".join(traceback.format_exception(error)) + repr(error)
    for part in [*token.split("."), "shop-client", "evil.example", "elsewhere.example", "jti-1"]:
        assert len(part) < 8 or part not in told
    assert error.__context__ is None
    assert error.__cause__ is None
    assert {seen.path for seen in server.seen} <= {DISCOVERY, "/jwks"}
    await accepted(verifier, access_token(server))


@pytest.mark.parametrize(
    ("shown", "says"),
    [
        ([], "there is none in the authorization metadata"),
        (["Bearer a.b.c", "Bearer a.b.c"], "there more than once"),
        ([""], 'not "Bearer"'),
        (["Bearer"], 'not "Bearer"'),
        (["Bearer "], 'not "Bearer"'),
        (["Basic c2hvcDpzZWNyZXQ="], 'not "Bearer"'),
        (["a.b.c"], 'not "Bearer"'),
        (["Bearer a.b.c "], 'not "Bearer"'),
        (["Bearer\ta.b.c"], 'not "Bearer"'),
        ([b"Bearer \xff\xfe"], 'not "Bearer"'),
        (["Bearer é.é.é"], 'not "Bearer"'),
        (["Bearer " + "x" * 2**20], "larger than 8192 bytes"),
        ([b"Bearer " + b"=" * 2**20], "larger than 8192 bytes"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_not_one_bearer_token(
    server: ScriptedServer, make: Make, shown: list[str | bytes], says: str
) -> None:
    assert says in (await refused(make(), *shown)).message
    assert server.seen == [], "told without asking anybody"


async def test_two_good_ones_are_one_too_many(server: ScriptedServer, make: Make) -> None:
    token = f"Bearer {access_token(server)}"
    assert "more than once" in (await refused(make(), token, token)).message


async def test_wrong_type_is_told_without_asking_anybody(server: ScriptedServer, make: Make) -> None:
    await refused(make(), f"Bearer {server.mint()}")
    assert server.seen == []


async def test_stripped_binding_where_it_is_required(server: ScriptedServer, make: Make) -> None:
    strict = make(require_certificate_binding=True)
    for stripped in (access_token(server), access_token(server, cnf=None)):
        error = await refused(strict, f"Bearer {stripped}")
        assert "bound to no certificate" in error.message
    bound = access_token(server, cnf=bound_to(CERTIFICATE))
    await accepted(strict, bound)
    assert (
        "not bound to this"
        in (await refused(strict, f"Bearer {bound}", certificate=OTHER_CERTIFICATE)).message
    )


async def test_unreadable_certificate_is_nobodys(server: ScriptedServer, make: Make) -> None:
    bound = f"Bearer {access_token(server, cnf=bound_to(CERTIFICATE))}"
    for certificate in (b"", b"gibberish", CERTIFICATE[:-40]):
        assert "cannot be read" in (await refused(make(), bound, certificate=certificate)).message


async def test_clients_may_be_limited(server: ScriptedServer, make: Make) -> None:
    await accepted(make(client_ids=frozenset({"a", "shop-client"})), access_token(server))
    error = await refused(make(client_ids=frozenset({"a"})), f"Bearer {access_token(server)}")
    assert "its client_id is not one of this caller's" in error.message


async def test_all_scopes_are_needed(server: ScriptedServer, make: Make) -> None:
    verifier = make(scopes=("a", "b"))
    await accepted(verifier, access_token(server, scope="b c a"))
    assert "scope a b" in (await refused(verifier, f"Bearer {access_token(server, scope='a c')}")).message


async def test_algorithms_may_be_limited(server: ScriptedServer, make: Make) -> None:
    error = await refused(make(algorithms=("RS256",)), f"Bearer {access_token(server)}")
    assert "allowed algorithm" in error.message


async def test_leeway_is_small(server: ScriptedServer, make: Make) -> None:
    clock = Clock(1_800_000_000.0)
    verifier = make(clock=clock)
    token = access_token(server, iat=1_800_000_000, nbf=1_800_000_000, exp=1_800_000_300)
    for good in (1_799_999_970.0, 1_800_000_329.9):
        clock.now = good
        await accepted(verifier, token)
    for bad in (1_799_999_969.9, 1_800_000_330.0):
        clock.now = bad
        await refused(verifier, f"Bearer {token}")


# The issuer's keys


async def test_keys_are_discovered_once(server: ScriptedServer, make: Make) -> None:
    verifier = make()
    for _ in range(5):
        await accepted(verifier, access_token(server))
    assert [seen.path for seen in server.seen] == [DISCOVERY, "/jwks"]


async def test_keys_are_where_the_settings_say(server: ScriptedServer, make: Make) -> None:
    server.on("/elsewhere", Reply(json={"keys": [server.keys[0].as_dict(private=False)]}))
    await accepted(make(jwks_uri=server.url + "/elsewhere"), access_token(server))
    assert [seen.path for seen in server.seen] == ["/elsewhere"]


async def test_static_keys_need_no_issuer(server: ScriptedServer, make: Make) -> None:
    key: Any = server.keys[0]
    pem = key.public_key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()
    for static in (pem, json.dumps({"keys": [key.as_dict(private=False)]})):
        verifier = make(static_keys=static)
        await accepted(verifier, access_token(server))
        assert NO_KEY in (await refused(verifier, f"Bearer {access_token(server, key=new_key())}")).message
    assert server.seen == []


async def test_rotated_keys_are_fetched_once(server: ScriptedServer, make: Make) -> None:
    verifier = make()
    await accepted(verifier, access_token(server))
    server.rotate()
    await asyncio.gather(*(accepted(verifier, access_token(server)) for _ in range(20)))
    assert len(server.requests("/jwks")) == 2


async def test_unknown_keys_do_not_flood_the_issuer(server: ScriptedServer, make: Make) -> None:
    monotonic = Clock(1000.0)
    verifier = make(monotonic=monotonic)
    await accepted(verifier, access_token(server))
    for round_ in (1, 2, 3):
        for _ in range(20):
            await refused(verifier, f"Bearer {access_token(server, key=new_key())}")
        assert len(server.requests("/jwks")) == 1 + round_
        monotonic.now += 10


async def test_withdrawn_key_is_refused_once_the_copy_is_old(server: ScriptedServer, make: Make) -> None:
    monotonic = Clock(1000.0)
    verifier = make(monotonic=monotonic)
    withdrawn = access_token(server)
    await accepted(verifier, withdrawn)
    server.rotate()
    monotonic.now += 7201  # nobody asked for so long that the old copy serves no more
    assert NO_KEY in (await refused(verifier, f"Bearer {withdrawn}")).message


async def test_issuer_away_with_keys_at_hand(server: ScriptedServer, make: Make) -> None:
    """For as long as it takes: who asks does not wait for the issuer, even one that hangs."""
    monotonic = Clock(1000.0)
    verifier = make(monotonic=monotonic)
    await accepted(verifier, access_token(server))
    answer = asyncio.Event()
    server.on(DISCOVERY, Reply(delay=answer, status=503))
    monotonic.now += 3700
    async with asyncio.timeout(2):
        for _ in range(5):
            await accepted(verifier, access_token(server))
    await server.arrived(DISCOVERY, 2)
    answer.set()
    await server.stop()
    for _ in range(5):
        monotonic.now += 3700
        await accepted(verifier, access_token(server))
    unknown = await refused(verifier, f"Bearer {access_token(server, key=new_key())}")
    assert "not known here, and the issuer cannot be asked now" in unknown.message


async def test_issuer_that_is_back_is_asked_meanwhile(server: ScriptedServer, make: Make) -> None:
    monotonic = Clock(1000.0)
    verifier = make(monotonic=monotonic)
    await accepted(verifier, access_token(server))
    monotonic.now += 3700
    await accepted(verifier, access_token(server))
    await server.arrived("/jwks", 2)


async def test_issuer_away_and_no_keys_yet(server: ScriptedServer, make: Make) -> None:
    verifier = make()
    token = access_token(server)
    server.on("/jwks", Reply(status=503, headers={"Retry-After": "7"}))
    with pytest.raises(ServerUnavailable) as caught:
        await accepted(verifier, token)
    assert caught.value.retry_after == 7
    assert "caller 'shop'" in caught.value.message
    server.on("/jwks")
    await accepted(verifier, token)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"issuer": "https://evil.example"}, "another issuer than configured"),
        ({"jwks_uri": None}, "its jwks_uri is missing"),
        ({"jwks_uri": "http://evil.example/jwks"}, "its jwks_uri is not https"),
    ],
)
async def test_issuer_with_unusable_metadata(
    server: ScriptedServer, make: Make, change: dict[str, object], says: str
) -> None:
    server.metadata |= change
    with pytest.raises(ServerMisconfigured, match=says) as caught:
        await accepted(make(), access_token(server))
    assert "caller 'shop'" in caught.value.message


async def test_issuer_need_not_log_anybody_in(server: ScriptedServer, make: Make) -> None:
    server.metadata = {"issuer": server.issuer, "jwks_uri": server.url + "/jwks"}
    await accepted(make(), access_token(server))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"issuer": "http://login.example"}, "issuer: not https"),
        ({"issuer": "http://127.0.0.1:9400", "development": False}, "issuer: not https"),
        ({"jwks_uri": "ftp://login.example"}, "jwks_uri: not an absolute https URL"),
        ({"audience": ""}, "audience: none"),
        ({"scopes": ()}, "scopes: none"),
        ({"algorithms": ()}, "algorithms: none"),
        ({"algorithms": ("HS256", "none")}, "algorithms: not allowed: HS256, none"),
    ],
)
def test_settings_that_are_wrong(given: dict[str, Any], says: str) -> None:
    settings: dict[str, Any] = {"issuer": "https://login.example", "audience": AUDIENCE, "development": True}
    with pytest.raises(ValueError, match=says):
        BearerSettings(**(settings | given))


async def test_static_keys_that_are_none(make: Make) -> None:
    with pytest.raises(ValueError, match="static_keys: holds neither"):
        make(static_keys="canary")


# A real issuer


async def _issued(provider: OidcProvider, **form: str) -> str:
    answer = await PlainClient(provider, SERVICE).token(grant_type="client_credentials", **form)
    answer.raise_for_status()
    return str(answer.json()["access_token"])


def _verifier(provider: OidcProvider, client_ids: frozenset[str] | None = None) -> BearerVerifier:
    settings = BearerSettings(
        issuer=provider.issuer, audience=VAULT_AUDIENCE, development=True, client_ids=client_ids
    )
    return BearerVerifier(settings, caller="shop")


async def test_real_tokens(oidc_provider: OidcProvider) -> None:
    verifier = _verifier(oidc_provider, client_ids=frozenset({SERVICE.client_id}))
    await accepted(verifier, await _issued(oidc_provider, resource=VAULT_AUDIENCE, scope=READ_SCOPE))
    for form, says in [
        ({"resource": VAULT_AUDIENCE}, "its scope"),
        ({}, NO_JWT),  # without a resource the server's tokens are opaque
    ]:
        assert says in (await refused(verifier, f"Bearer {await _issued(oidc_provider, **form)}")).message
    tokens = await PlainClient(oidc_provider, BASIC).login()
    for name, says in [("id_token", NO_TYPE), ("access_token", NO_JWT), ("refresh_token", NO_JWT)]:
        assert says in (await refused(verifier, f"Bearer {tokens[name]}")).message
    await verifier.aclose()


async def test_real_rotation(start_provider: StartProvider) -> None:
    provider = start_provider()
    verifier = _verifier(provider)
    old = await _issued(provider, resource=VAULT_AUDIENCE, scope=READ_SCOPE)
    await accepted(verifier, old)
    provider.rotate_keys(forget=True)
    await accepted(verifier, await _issued(provider, resource=VAULT_AUDIENCE, scope=READ_SCOPE))
    assert NO_KEY in (await refused(verifier, f"Bearer {old}")).message
    provider.stop()
    with pytest.raises(BearerInvalid):
        await accepted(verifier, old)
    await verifier.aclose()


async def test_real_expiry(start_provider: StartProvider) -> None:
    provider = start_provider(access_token_ttl=60)
    clock = Clock(time.time())
    settings = BearerSettings(issuer=provider.issuer, audience=VAULT_AUDIENCE, development=True)
    verifier = BearerVerifier(settings, caller="shop", clock=clock)
    token = await _issued(provider, resource=VAULT_AUDIENCE, scope=READ_SCOPE)
    await accepted(verifier, token)
    clock.now += 120
    assert "it has expired" in (await refused(verifier, f"Bearer {token}")).message
    await verifier.aclose()
