"""Discovery, its cache, and the cache of signing keys, over real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from joserfc.util import int_to_base64

from tests.authserver.scripted import Reply, ScriptedServer, new_key
from tokenvault_sidecar.adapters.http_client import Client, new_client
from tokenvault_sidecar.adapters.jose import read_static_keys
from tokenvault_sidecar.adapters.metadata import Discovery, PublishedKeys, url_problem
from tokenvault_sidecar.core.errors import ServerMisconfigured, ServerUnavailable

OPENID = "/.well-known/openid-configuration"
RFC8414 = "/.well-known/oauth-authorization-server"


class Clock:
    """A monotonic clock a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with new_client(None, deadline=5) as client:
        yield client


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def discover(client: Client, clock: Clock) -> Callable[..., Discovery]:
    def make(issuer: str, **given: Any) -> Discovery:
        settings = {"development": True, "deadline": 5.0, "lifetime": 600.0, "monotonic": clock, **given}
        return Discovery(client, whose="brand 'acme'", issuer=issuer, **settings)

    return make


@pytest.fixture
def published(server: ScriptedServer, client: Client, clock: Clock) -> PublishedKeys:
    async def locate() -> str:
        return server.url + "/jwks"

    return PublishedKeys(client, locate, whose="brand 'acme'", deadline=5, lifetime=600, monotonic=clock)


Discover = Callable[..., Discovery]


async def test_reads_the_members_it_uses(server: ScriptedServer, discover: Discover) -> None:
    found = await discover(server.issuer).get()
    assert found.issuer == server.issuer
    assert found.authorization_endpoint == server.url + "/authorize"
    assert found.token_endpoint == server.url + "/token"
    assert found.revocation_endpoint == server.url + "/revoke"
    assert found.jwks_uri == server.url + "/jwks"
    assert found.sends_iss


async def test_optional_members_may_be_missing(server: ScriptedServer, discover: Discover) -> None:
    for name in ("revocation_endpoint", "jwks_uri", "authorization_response_iss_parameter_supported"):
        del server.metadata[name]
    found = await discover(server.issuer).get()
    assert (found.revocation_endpoint, found.jwks_uri, found.sends_iss) == (None, None, False)


@pytest.mark.parametrize(
    "elsewhere",
    [
        Reply(status=404),
        Reply(body=b"<html>all paths are mine</html>"),
        Reply(status=302, headers={"Location": "/"}),
    ],
)
async def test_falls_back_to_rfc_8414_where_the_well_known_part_goes_before_the_path(
    discover: Discover, elsewhere: Reply
) -> None:
    async with ScriptedServer(path="/tenant/a") as server:
        server.on("/tenant/a" + OPENID, elsewhere)
        assert (await discover(server.issuer).get()).issuer == server.issuer
        assert [seen.path for seen in server.seen] == ["/tenant/a" + OPENID, RFC8414 + "/tenant/a"]


async def test_slash_at_the_issuers_end_is_not_doubled(discover: Discover) -> None:
    async with ScriptedServer() as server:
        server.metadata["issuer"] = server.url + "/"
        assert (await discover(server.url + "/").get()).issuer == server.url + "/"
        assert server.seen[0].path == OPENID


@pytest.mark.parametrize("named", ["https://evil.example", None, 7])
async def test_document_of_another_issuer_is_refused(
    server: ScriptedServer, discover: Discover, named: object
) -> None:
    server.metadata["issuer"] = named
    with pytest.raises(ServerMisconfigured, match="another issuer than configured"):
        await discover(server.issuer).get()
    assert len(server.seen) == 1, "a document of another issuer ends the search"


async def test_issuer_matches_to_the_letter(server: ScriptedServer, discover: Discover) -> None:
    server.metadata["issuer"] = server.url + "/"
    with pytest.raises(ServerMisconfigured, match="'acme' is of another issuer"):
        await discover(server.url).get()


@pytest.mark.parametrize(
    "name", ["authorization_endpoint", "token_endpoint", "revocation_endpoint", "jwks_uri"]
)
@pytest.mark.parametrize(
    "url",
    [
        "http://as.example/x",
        "ftp://127.0.0.1/",
        "/relative",
        "https://a@b.example/",
        "https://b.example/#f",
        7,
    ],
)
async def test_every_endpoint_must_be_https(
    server: ScriptedServer, discover: Discover, name: str, url: object
) -> None:
    server.metadata[name] = url
    with pytest.raises(ServerMisconfigured, match=name):
        await discover(server.issuer).get()


@pytest.mark.parametrize("name", ["authorization_endpoint", "token_endpoint"])
async def test_needed_members_must_be_there(server: ScriptedServer, discover: Discover, name: str) -> None:
    del server.metadata[name]
    with pytest.raises(ServerMisconfigured, match=f"{name} is missing"):
        await discover(server.issuer).get()


@pytest.mark.parametrize(
    ("url", "development", "good"),
    [
        ("https://as.example/a", False, True),
        ("http://127.0.0.1:8080", True, True),
        ("http://127.9.9.9", True, True),
        ("http://[::1]:8080/", True, True),
        ("http://localhost:1", True, True),
        ("http://127.0.0.1:8080", False, False),
        ("http://as.example", True, False),
        ("http://127.0.0.1.example", True, False),
        ("http://localhost.example", True, False),
        ("http://10.0.0.1", True, False),
        ("https://", True, False),
        ("https://as.example:port/", True, False),
        ("https://me:secret@as.example/", True, False),
        ("https://as.example/#part", True, False),
        ("javascript:alert(1)", True, False),
        ("", True, False),
    ],
)
def test_http_is_for_loopback_in_development(url: str, development: bool, good: bool) -> None:
    assert (url_problem(url, development=development) is None) == good


@pytest.mark.parametrize(
    "replies", [Reply(body=b"<html>"), Reply(json=[]), Reply(body=b"[" * 100_000), Reply(body=b"\xff\xfe{")]
)
async def test_no_json_object_anywhere(server: ScriptedServer, discover: Discover, replies: Reply) -> None:
    server.on(OPENID, replies)
    server.on(RFC8414, replies)
    with pytest.raises(ServerMisconfigured, match="publishes no metadata"):
        await discover(server.issuer).get()


async def test_redirects_are_not_followed(server: ScriptedServer, discover: Discover) -> None:
    redirect = Reply(status=302, headers={"Location": server.url + "/elsewhere"})
    server.on(OPENID, redirect)
    server.on(RFC8414, redirect)
    server.on("/elsewhere", Reply(json=server.metadata))
    with pytest.raises(ServerMisconfigured, match="publishes no metadata"):
        await discover(server.issuer).get()
    assert server.requests("/elsewhere") == []


@pytest.mark.parametrize(
    "reply",
    [
        Reply(json={"padding": "x" * 300_000}),
        Reply(truncate=True, json={"issuer": "x"}),
        Reply(close="after"),
        Reply(close="before"),
        Reply(raw=b"gibberish\r\n\r\n"),
        Reply(status=500),
    ],
)
async def test_unreadable_answers_are_transient(
    server: ScriptedServer, discover: Discover, reply: Reply
) -> None:
    server.on(OPENID, reply)
    with pytest.raises(ServerUnavailable):
        await discover(server.issuer).get()


async def test_busy_server_says_when(server: ScriptedServer, discover: Discover) -> None:
    server.on(OPENID, Reply(status=503, headers={"Retry-After": "7"}))
    with pytest.raises(ServerUnavailable) as caught:
        await discover(server.issuer).get()
    assert caught.value.retry_after == 7


async def test_slow_server_hits_the_deadline(server: ScriptedServer, discover: Discover) -> None:
    server.on(OPENID, Reply(delay=60))
    with pytest.raises(ServerUnavailable):
        await discover(server.issuer, deadline=0.2).get()


async def test_cached_for_its_lifetime(server: ScriptedServer, discover: Discover, clock: Clock) -> None:
    discovery = discover(server.issuer)
    first = await discovery.get()
    clock.now += 599
    assert await discovery.get() is first
    assert len(server.seen) == 1
    server.metadata["token_endpoint"] = server.url + "/new-token"
    clock.now += 2
    assert (await discovery.get()).token_endpoint == server.url + "/new-token"


async def test_one_fetch_for_all_who_wait(server: ScriptedServer, discover: Discover) -> None:
    server.on(OPENID, Reply(json=server.metadata, delay=0.1))
    discovery = discover(server.issuer)
    found = await asyncio.gather(*(discovery.get() for _ in range(50)))
    assert len({id(metadata) for metadata in found}) == 1
    assert len(server.seen) == 1


async def test_caller_that_goes_away_does_not_stop_the_fetch(
    server: ScriptedServer, discover: Discover
) -> None:
    server.on(OPENID, Reply(json=server.metadata, delay=0.1))
    discovery = discover(server.issuer)
    gone, stays = asyncio.create_task(discovery.get()), asyncio.create_task(discovery.get())
    await server.arrived(OPENID)
    gone.cancel()
    assert (await stays).issuer == server.issuer
    assert gone.cancelled()
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "failure", [Reply(status=503), Reply(status=404), Reply(json={"issuer": "https://evil.example"})]
)
async def test_old_copy_serves_while_fetching_fails_and_fetches_are_spaced(
    server: ScriptedServer, discover: Discover, clock: Clock, failure: Reply
) -> None:
    discovery = discover(server.issuer)
    first = await discovery.get()
    server.on(OPENID, failure)
    server.on(RFC8414, failure)
    clock.now += 601
    assert await discovery.get() is first
    tried = len(server.seen)
    assert tried > 1
    clock.now += 5
    assert await discovery.get() is first
    assert len(server.seen) == tried, "not again right after a failure"
    clock.now += 6
    assert await discovery.get() is first
    assert len(server.seen) > tried
    server.on(OPENID)
    clock.now += 11
    assert await discovery.get() is not first


async def test_failure_is_not_kept_where_there_is_no_copy(server: ScriptedServer, discover: Discover) -> None:
    discovery = discover(server.issuer)
    server.on(OPENID, Reply(status=503), Reply(json=server.metadata))
    with pytest.raises(ServerUnavailable):
        await discovery.get()
    assert (await discovery.get()).issuer == server.issuer


async def test_closing_stops_a_fetch_under_way(server: ScriptedServer, discover: Discover) -> None:
    server.on(OPENID, Reply(delay=60))
    discovery = discover(server.issuer)
    waiting = asyncio.create_task(discovery.get())
    await server.arrived(OPENID)
    await discovery.aclose()
    with pytest.raises(ServerUnavailable, match="stopping"):
        await waiting


async def test_keys_are_cached_and_refetched_at_a_limited_rate(
    server: ScriptedServer, published: PublishedKeys, clock: Clock
) -> None:
    old = (await published.get())[0].kid
    new = server.rotate().kid
    assert (await published.get())[0].kid == old
    assert (await published.refetched())[0].kid == new
    newest = server.rotate().kid
    clock.now += 9
    assert (await published.refetched())[0].kid == new, "too soon"
    assert len(server.requests("/jwks")) == 2
    clock.now += 2
    assert (await published.refetched())[0].kid == newest


async def test_refetch_is_one_for_all_who_ask(server: ScriptedServer, published: PublishedKeys) -> None:
    await published.get()
    new = server.rotate().kid
    found = await asyncio.gather(*(published.refetched() for _ in range(50)))
    assert {keys[0].kid for keys in found} == {new}
    assert len(server.requests("/jwks")) == 2


async def test_keys_serve_from_the_cache_while_the_issuer_is_away(
    server: ScriptedServer, published: PublishedKeys, clock: Clock
) -> None:
    keys = await published.get()
    await server.stop()
    clock.now += 601
    assert await published.get() == keys
    with pytest.raises(ServerUnavailable):
        await published.refetched()
    with pytest.raises(ServerUnavailable):
        await published.refetched()


async def test_only_usable_public_keys_of_a_set_are_taken(
    server: ScriptedServer, published: PublishedKeys
) -> None:
    good = new_key("EC")
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key().public_numbers()
    short = {"kty": "RSA", "kid": "weak", "n": int_to_base64(weak.n), "e": "AQAB"}
    useless = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"},
        {"kty": "AKP", "kid": "post-quantum"},
        {"kty": "EC", "crv": "P-256", "kid": "no point"},
        {**new_key("EC").as_dict(private=False), "use": "enc"},
        short,
        "no key",
    ]
    server.on("/jwks", Reply(json={"keys": [*useless, good.as_dict(private=False)]}))
    assert [key.kid for key in await published.get()] == [good.kid]


@pytest.mark.parametrize(
    "reply",
    [Reply(json={}), Reply(json={"keys": []}), Reply(json={"keys": {}}), Reply(status=404), Reply(body=b"<")],
)
async def test_unusable_key_set(server: ScriptedServer, published: PublishedKeys, reply: Reply) -> None:
    server.on("/jwks", reply)
    with pytest.raises(ServerMisconfigured, match="jwks_uri of brand 'acme'"):
        await published.get()


def test_static_keys_from_a_jwk_set_a_jwk_or_pem() -> None:
    key = new_key("EC").as_dict(private=False)
    assert read_static_keys(json.dumps({"keys": [key]}))[0].kid == key["kid"]
    assert read_static_keys(json.dumps(key))[0].kid == key["kid"]
    publics: list[ec.EllipticCurvePublicKey | rsa.RSAPublicKey] = [
        ec.generate_private_key(ec.SECP256R1()).public_key(),
        rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key(),
    ]
    pem = b"".join(
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        for public in publics
    )
    assert [key.key_type for key in read_static_keys(pem.decode())] == ["EC", "RSA"]


@pytest.mark.parametrize(
    "text",
    ["", "no key", "{}", "{", '{"keys": []}', "-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----"],
)
def test_unusable_static_keys(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_static_keys(text)


def test_private_key_is_no_static_key() -> None:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(ValueError, match="PRIVATE KEY"):
        read_static_keys(pem.decode())
