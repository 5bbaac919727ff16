"""Id tokens: what is accepted, and what is wrong with each that is not."""

import base64
import json
import time
import traceback
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
from cryptography.hazmat.primitives import serialization

from tests.authserver.scripted import FAULTS, Fault, Reply, ScriptedServer, new_key
from tokenvault_sidecar.adapters.http_client import Client, new_client
from tokenvault_sidecar.adapters.id_token import IdTokenVerifier
from tokenvault_sidecar.adapters.jose import read_static_keys
from tokenvault_sidecar.adapters.metadata import PublishedKeys, StaticKeys
from tokenvault_sidecar.core.errors import InvalidIdToken, ServerUnavailable
from tokenvault_sidecar.core.model import Secret

NONCE = Secret("n-1")

SAYS: dict[Fault, str] = {
    "aud": "its aud does not name this client",
    "azp": "its azp is another client",
    "several-aud": "its aud names several and it has no azp",
    "iss": "its iss is not the configured issuer",
    "nonce": "its nonce is not the one sent",
    "none": "it is not signed with an allowed algorithm",
    "hs256": "it is not signed with an allowed algorithm",
    "expired": "it has expired",
    "future": "its iat is in the future",
    "unknown-kid": "it is signed with a key the issuer does not publish",
    "forged": "its signature does not verify",
}


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with new_client(None, deadline=5) as client:
        yield client


@pytest.fixture
def verifier(server: ScriptedServer, client: Client) -> IdTokenVerifier:
    async def locate() -> str:
        return server.url + "/jwks"

    return _verifier(server, PublishedKeys(client, locate, whose="brand 'acme'", deadline=5, lifetime=600))


def _verifier(server: ScriptedServer, keys: PublishedKeys | StaticKeys, **given: Any) -> IdTokenVerifier:
    settings = {"algorithms": ("RS256", "ES256", "PS256", "EdDSA"), "client_id": "client", **given}
    return IdTokenVerifier(brand="acme", issuer=server.issuer, keys=keys, **settings)


@pytest.mark.parametrize("kind", ["RSA", "EC", "OKP"])
async def test_valid(
    server: ScriptedServer, verifier: IdTokenVerifier, kind: Literal["RSA", "EC", "OKP"]
) -> None:
    server.rotate(kind)
    now = time.time()
    claims = await verifier.verify(Secret(server.mint(now=now)), nonce=NONCE, now=now)
    assert claims.subject == "alice"
    assert claims.expires_at == int(now) + 300


async def test_valid_with_pss(server: ScriptedServer, verifier: IdTokenVerifier) -> None:
    server.rotate("RSA")
    token = server.mint(header={"alg": "PS256"})
    assert (await verifier.verify(Secret(token), nonce=NONCE, now=time.time())).subject == "alice"


@pytest.mark.parametrize("fault", FAULTS)
async def test_each_fault_is_named_and_nothing_of_the_token_told(
    server: ScriptedServer, verifier: IdTokenVerifier, fault: Fault
) -> None:
    token = server.mint(fault, subject="subject-canary")
    error = await _refused(verifier, token)
    assert SAYS[fault] in error.message
    assert "'acme'" in error.message
    told = "".join(traceback.format_exception(error)) + repr(error)
    for canary in [*token.split("."), "subject-canary", "another-client", "another-nonce", "another-issuer"]:
        assert not canary or canary not in told
    assert error.__context__ is None
    assert error.__cause__ is None


@pytest.mark.parametrize("name", ["iss", "sub", "aud", "exp", "iat", "nonce"])
async def test_claims_that_must_be_there(
    server: ScriptedServer, verifier: IdTokenVerifier, name: str
) -> None:
    error = await _refused(verifier, server.mint(drop=[name]))
    assert f"its {name}" in error.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sub", ""),
        ("sub", 7),
        ("sub", "x" * 256),
        ("sub", "zoë"),
        ("exp", "1893456000"),
        ("exp", True),
        ("exp", float("nan")),
        ("exp", float("inf")),
        ("exp", 10**400),
        ("exp", None),
        ("iat", -1),
        ("nbf", "soon"),
        ("nbf", 2.0**33),
        ("nonce", 1),
        ("nonce", ["n-1"]),
        ("nonce", "n-\ud800"),
        ("iss", ["https://as.example"]),
        ("aud", []),
        ("aud", {"client": 1}),
        ("aud", "clien"),
        ("azp", "client2"),
        ("azp", ["client"]),
        ("azp", ""),
        ("azp", None),
    ],
)
async def test_claims_of_the_wrong_kind(
    server: ScriptedServer, verifier: IdTokenVerifier, name: str, value: Any
) -> None:
    assert f"its {name}" in (await _refused(verifier, server.mint(**{name: value}))).message


async def test_audience_may_be_a_list_with_this_client_as_azp(
    server: ScriptedServer, verifier: IdTokenVerifier
) -> None:
    for claims in ({"aud": ["client"]}, {"aud": ["client", "api"], "azp": "client"}):
        await verifier.verify(Secret(server.mint(**claims)), nonce=NONCE, now=time.time())


async def test_claims_not_used_here_refuse_nobody(server: ScriptedServer, verifier: IdTokenVerifier) -> None:
    token = server.mint(auth_time="yesterday", amr="pwd", at_hash=7, jti=7, email=None)
    assert (await verifier.verify(Secret(token), nonce=NONCE, now=time.time())).subject == "alice"


async def test_nonce_sent_empty_is_no_nonce(server: ScriptedServer, verifier: IdTokenVerifier) -> None:
    for told in ("", "n-1"):
        with pytest.raises(InvalidIdToken, match="its nonce"):
            await verifier.verify(Secret(server.mint(nonce=told)), nonce=Secret(""), now=time.time())


async def test_leeway_is_small(server: ScriptedServer, verifier: IdTokenVerifier) -> None:
    now = 1_800_000_000.0
    token = Secret(server.mint(now=now))
    for good in (now - 29, now + 329):
        await verifier.verify(token, nonce=NONCE, now=good)
    for bad in (now - 31, now + 330):
        with pytest.raises(InvalidIdToken):
            await verifier.verify(token, nonce=NONCE, now=bad)


async def test_nonce_is_not_asked_for_after_a_refresh(
    server: ScriptedServer, verifier: IdTokenVerifier
) -> None:
    token = Secret(server.mint(nonce=None))
    assert (await verifier.verify(token, nonce=None, now=time.time())).subject == "alice"


@pytest.mark.parametrize(
    "token",
    ["", "opaque", "a.b", "a.b.c", "a.b.c.d.e", "..", "é.é.é", "e30.e30.", "W10.e30.e30", "x" * 400_000],
)
async def test_not_a_signed_jwt(verifier: IdTokenVerifier, token: str) -> None:
    assert "not a signed JWT" in (await _refused(verifier, token)).message


@pytest.mark.parametrize(
    "header", [{"crit": ["exp"], "exp": 1}, {"b64": False, "crit": ["b64"]}, {"b64": True}]
)
async def test_no_extension_is_understood(
    server: ScriptedServer, verifier: IdTokenVerifier, header: dict[str, object]
) -> None:
    part, rest = server.mint().split(".", 1)
    forged = {**json.loads(base64.urlsafe_b64decode(part + "==")), **header}
    encoded = base64.urlsafe_b64encode(json.dumps(forged).encode()).rstrip(b"=").decode()
    assert "demands an extension" in (await _refused(verifier, f"{encoded}.{rest}")).message


async def test_unknown_header_parameters_are_ignored(
    server: ScriptedServer, verifier: IdTokenVerifier
) -> None:
    token = server.mint(header={"x-tenant": "t", "x5t": "a" * 600})
    assert (await verifier.verify(Secret(token), nonce=NONCE, now=time.time())).subject == "alice"


async def test_key_id_of_an_unpublished_key_never_picks_the_algorithm(
    server: ScriptedServer, client: Client
) -> None:
    """An allowed algorithm that is not the key's own is refused too."""
    token = server.mint(header={"alg": "ES256"})
    rsa_key = new_key("RSA").as_dict(private=False)
    keys = StaticKeys(read_static_keys(json.dumps({**rsa_key, "kid": server.keys[0].kid})))
    assert "signature" in (await _refused(_verifier(server, keys), token)).message


async def test_algorithm_not_configured_is_refused(server: ScriptedServer) -> None:
    keys = StaticKeys(tuple(server.keys))
    verifier = _verifier(server, keys, algorithms=("RS256",))
    assert "allowed algorithm" in (await _refused(verifier, server.mint())).message


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
async def test_some_algorithms_are_never_allowed(server: ScriptedServer, algorithm: str) -> None:
    fault: Fault = "none" if algorithm == "none" else "hs256"
    verifier = _verifier(server, StaticKeys(tuple(server.keys)), algorithms=(algorithm,))
    assert "allowed algorithm" in (await _refused(verifier, server.mint(fault))).message


async def test_static_pem_key_needs_no_key_id(server: ScriptedServer) -> None:
    pem = server.keys[0].public_key.public_bytes(  # type: ignore[union-attr]  # EC keys have one
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    verifier = _verifier(server, StaticKeys(read_static_keys(pem.decode())))
    token = Secret(server.mint())
    assert (await verifier.verify(token, nonce=NONCE, now=time.time())).subject == "alice"
    server.rotate()
    assert "does not publish" in (await _refused(verifier, server.mint())).message


async def test_token_without_key_id_is_tried_with_all(
    server: ScriptedServer, verifier: IdTokenVerifier
) -> None:
    server.keys = [new_key("RSA"), new_key("EC"), new_key("EC")]
    token = Secret(server.mint(header={"kid": None}))
    assert (await verifier.verify(token, nonce=NONCE, now=time.time())).subject == "alice"
    server.rotate()
    token = Secret(server.mint(header={"kid": None}))
    assert (await verifier.verify(token, nonce=NONCE, now=time.time())).subject == "alice"


async def test_rotated_key_is_fetched_once(server: ScriptedServer, verifier: IdTokenVerifier) -> None:
    await verifier.verify(Secret(server.mint()), nonce=NONCE, now=time.time())
    server.rotate()
    for _ in range(5):
        await verifier.verify(Secret(server.mint()), nonce=NONCE, now=time.time())
    assert len(server.requests("/jwks")) == 2


async def test_unknown_key_ids_do_not_flood_the_issuer(
    server: ScriptedServer, verifier: IdTokenVerifier
) -> None:
    await verifier.verify(Secret(server.mint()), nonce=NONCE, now=time.time())
    for _ in range(20):
        await _refused(verifier, server.mint("unknown-kid"))
    assert len(server.requests("/jwks")) == 2


async def test_known_keys_serve_while_the_issuer_is_away(
    server: ScriptedServer, verifier: IdTokenVerifier
) -> None:
    await verifier.verify(Secret(server.mint()), nonce=NONCE, now=time.time())
    server.on("/jwks", Reply(status=503))
    await verifier.verify(Secret(server.mint()), nonce=NONCE, now=time.time())
    for _ in range(2):
        with pytest.raises(ServerUnavailable):
            await verifier.verify(Secret(server.mint("unknown-kid")), nonce=NONCE, now=time.time())


async def _refused(verifier: IdTokenVerifier, token: str) -> InvalidIdToken:
    with pytest.raises(InvalidIdToken) as caught:
        await verifier.verify(Secret(token), nonce=NONCE, now=time.time())
    return caught.value
