"""The access token a service gets by its client credentials, and shows on each call."""

import asyncio
import base64
import json
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from google.protobuf.any_pb2 import Any as Packed
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # typed, but unmarked
from joserfc import jwt
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from tests.authserver.clients import PRIVATE_KEY_JWT, SERVICE, Registration
from tests.authserver.oidc import READ_SCOPE, VAULT_AUDIENCE, OidcProvider
from tests.authserver.scripted import Reply, ScriptedServer, Seen
from tests.client.conftest import Connect, Files
from tests.client.fake_vault import FakeVault
from tokenvault import (
    AsyncTokenVaultClient,
    BearerInvalid,
    ClientCredentials,
    CredentialsRefused,
    CredentialsUnavailable,
    TokenVaultClient,
    TokenVaultError,
)
from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault_sidecar.adapters.bearer import BearerSettings, BearerVerifier
from tokenvault_sidecar.core import errors as core_errors
from tokenvault_sidecar.devkit import DevelopmentCA

SECRET = "p%rc+nt&amp:co/lon =sp ace"
ODD = Registration("odd-service", secret=SECRET, redirect_uris=(), grant_types=("client_credentials",))
SIGNING = Registration(
    "signing-service",
    auth_method="private_key_jwt",
    redirect_uris=(),
    grant_types=("client_credentials",),
    private_key=PRIVATE_KEY_JWT.private_key,
)
BOUND = Registration(
    "bound-service",
    secret="bound-secret",
    redirect_uris=(),
    grant_types=("client_credentials",),
    metadata={"tls_client_certificate_bound_access_tokens": True},
)
TOKEN = pb.GetTokenResponse(access_token="s3cret", token_type="Bearer", token_version="v1")


@pytest.fixture(scope="module")
def provider() -> Iterator[OidcProvider]:
    with OidcProvider(registrations=[SERVICE, ODD, SIGNING]) as provider:
        yield provider


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        server.on("/token", numbered())
        yield server


def numbered(**more: object) -> Any:
    """A token endpoint that gives token-1, token-2 and so on."""
    given = 0

    def answer(_: Seen) -> Reply:
        nonlocal given
        given += 1
        return Reply(
            json={"access_token": f"token-{given}", "token_type": "bearer", "expires_in": 600, **more}
        )

    return answer


def credentials_at(server: ScriptedServer, **given: Any) -> ClientCredentials:
    parameters = {"client_id": "shop", "client_secret": "canary-secret", **given}
    return ClientCredentials(token_endpoint=server.url + "/token", **parameters)


async def got(credentials: ClientCredentials) -> str:
    return await credentials.aio.token(10)


def bearer_invalid() -> status_pb2.Status:
    packed = Packed()
    packed.Pack(error_details_pb2.ErrorInfo(reason="BEARER_INVALID", domain="tokenvault.v1"))
    code = grpc.StatusCode.UNAUTHENTICATED
    return status_pb2.Status(code=code.value[0], message="refused", details=[packed])


# Of a real authorization server


@pytest.mark.parametrize(
    ("registration", "given"),
    [
        (SERVICE, {"client_secret": SERVICE.secret}),
        (ODD, {"client_secret": ODD.secret}),
        (SIGNING, {"private_key": SIGNING.private_key}),
    ],
    ids=lambda value: value.client_id if isinstance(value, Registration) else "",
)
async def test_a_token_that_the_sidecar_accepts(
    connect: Connect,
    address: str,
    files: Files,
    fake: FakeVault,
    provider: OidcProvider,
    registration: Registration,
    given: dict[str, Any],
) -> None:
    credentials = ClientCredentials(
        token_endpoint=provider.token_endpoint,
        client_id=registration.client_id,
        resource=VAULT_AUDIENCE,
        **given,
    )
    asked = len(provider.token_requests(client_id=registration.client_id))
    vault = connect(address, **files.parameters(), credentials=credentials)
    fake.answers.extend([TOKEN, pb.InvalidateResponse(), TOKEN])
    await vault.get_token("acme", consumer="alice")
    await vault.invalidate("acme", consumer="alice")
    await vault.get_token("acme", consumer="alice")
    assert len(provider.token_requests(client_id=registration.client_id)) == asked + 1
    assert fake.shown[0] == fake.shown[1] == fake.shown[2]
    settings = BearerSettings(issuer=provider.issuer, audience=VAULT_AUDIENCE, development=True)
    verifier = BearerVerifier(settings, caller="shop")
    await verifier.verify(fake.shown[0], b"")
    await verifier.aclose()


async def test_the_issuer_may_be_the_assertion_s_audience(provider: OidcProvider) -> None:
    credentials = ClientCredentials(
        token_endpoint=provider.token_endpoint,
        client_id=SIGNING.client_id,
        private_key=SIGNING.private_key,
        assertion_audience=provider.issuer,
    )
    first = await got(credentials)
    assert first != await credentials.aio.token(10, rejected=first), "each assertion has its own jti"


async def test_a_token_bound_to_the_certificate(ca: DevelopmentCA, files: Files, tmp_path: Path) -> None:
    issued = ca.issue(name="as", ips=["127.0.0.1"])
    paths = tmp_path / "as.pem", tmp_path / "as.key"
    paths[0].write_bytes(issued.certificate_pem)
    paths[1].write_bytes(issued.private_key_pem)
    features = {"mTLS": {"enabled": True, "certificateBoundAccessTokens": True}}
    with OidcProvider(registrations=[BOUND], tls=paths, features=features) as provider:
        parameters: dict[str, Any] = {
            "token_endpoint": provider.token_endpoint,
            "client_id": BOUND.client_id,
            "client_secret": BOUND.secret,
            "resource": VAULT_AUDIENCE,
            "ca": files.ca,
        }
        bound = ClientCredentials(
            **parameters, certificate=files.certificate, private_key_file=files.private_key
        )
        settings = BearerSettings(
            issuer=provider.issuer,
            audience=VAULT_AUDIENCE,
            require_certificate_binding=True,
            ca_file=files.ca,
        )
        verifier = BearerVerifier(settings, caller="shop")
        shown = [f"Bearer {await got(bound)}"]
        await verifier.verify(shown, files.certificate.read_bytes())
        with pytest.raises(core_errors.BearerInvalid, match="not bound to this caller's certificate"):
            await verifier.verify(shown, issued.certificate_pem)
        await verifier.aclose()
        with pytest.raises(CredentialsRefused, match=r"\(status 400, no known error\)"):
            await got(ClientCredentials(**parameters))
        with pytest.raises(CredentialsUnavailable, match="a certificate that is not trusted: set ca"):
            await got(ClientCredentials(**parameters | {"ca": None}))


# What is sent


async def test_what_the_token_endpoint_is_asked(server: ScriptedServer) -> None:
    given = {"scope": ["a", "b"], "audience": "vault", "resource": "https://vault.example"}
    await got(credentials_at(server, client_id="sh:op", client_secret=SECRET, **given))
    [seen] = server.requests("/token")
    assert seen.method == "POST"
    assert seen.form == {
        "grant_type": "client_credentials",
        "scope": "a b",
        "audience": "vault",
        "resource": "https://vault.example",
    }
    scheme, _, pair = seen.headers["authorization"].partition(" ")
    assert scheme == "Basic"
    user, _, password = base64.b64decode(pair).decode().partition(":")
    assert (unquote_plus(user), unquote_plus(password)) == ("sh:op", SECRET)


async def test_the_scope_is_the_sidecar_s_default_one(server: ScriptedServer) -> None:
    await got(credentials_at(server))
    assert server.requests("/token")[0].form == {"grant_type": "client_credentials", "scope": READ_SCOPE}
    await got(credentials_at(server, scope=""))
    assert server.requests("/token")[1].form == {"grant_type": "client_credentials"}


def pem_of(key: Any, encryption: Any = None) -> str:
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()).decode())


@pytest.mark.parametrize(
    ("native", "kind", "algorithm"),
    [
        (rsa.generate_private_key(65537, 2048), RSAKey, "RS256"),
        (ec.generate_private_key(ec.SECP256R1()), ECKey, "ES256"),
        (ec.generate_private_key(ec.SECP384R1()), ECKey, "ES384"),
        (ed25519.Ed25519PrivateKey.generate(), OKPKey, "EdDSA"),
    ],
    ids=["RSA", "P-256", "P-384", "Ed25519"],
)
@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")  # verifying by the name "EdDSA"
async def test_what_the_assertion_says(
    server: ScriptedServer, native: Any, kind: type[Key], algorithm: str
) -> None:
    pem = pem_of(native)
    await got(credentials_at(server, client_secret=None, private_key=pem, private_key_id="k1"))
    [seen] = server.requests("/token")
    assert "authorization" not in seen.headers
    assert seen.form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    token = jwt.decode(seen.form["client_assertion"], kind.import_key(pem), algorithms=[algorithm])
    assert token.header == {"alg": algorithm, "typ": "JWT", "kid": "k1"}
    assert (token.claims["iss"], token.claims["sub"]) == ("shop", "shop")
    assert token.claims["aud"] == server.url + "/token"
    assert token.claims["exp"] == token.claims["iat"] + 60
    assert abs(token.claims["iat"] - time.time()) < 60
    assert token.claims["jti"]


# What is answered


@pytest.mark.parametrize(
    ("reply", "kind", "says"),
    [
        (Reply(status=401, json={"error": "invalid_client"}), CredentialsRefused, "401, invalid_client"),
        (Reply(status=400, json={"error": "invalid_scope"}), CredentialsRefused, "400, invalid_scope"),
        (Reply(status=400, json={"error": "canary"}), CredentialsRefused, "400, no known error"),
        (Reply(status=400, json={"error": ["canary"]}), CredentialsRefused, "400, no known error"),
        (Reply(status=403, body=b"<html>canary"), CredentialsRefused, "status 403"),
        (Reply(status=302, headers={"Location": "/canary"}), CredentialsRefused, "status 302"),
        (Reply(json={"token_type": "Bearer"}), CredentialsRefused, "status 200"),
        (Reply(json=["canary"]), CredentialsRefused, "status 200"),
        (Reply(body=b"[" * 60_000), CredentialsRefused, "status 200"),
        (Reply(json={"access_token": "canary"}), CredentialsRefused, "no bearer token"),
        (Reply(json={"access_token": "canary", "token_type": "DPoP"}), CredentialsRefused, "no bearer token"),
        (Reply(json={"access_token": "ca\nnary", "token_type": "Bearer"}), CredentialsRefused, "no bearer"),
        (Reply(json={"access_token": 7, "token_type": "Bearer"}), CredentialsRefused, "status 200"),
        (Reply(status=503, headers={"Retry-After": "7"}), CredentialsUnavailable, "status 503"),
        (Reply(status=429), CredentialsUnavailable, "status 429"),
        (Reply(close="before"), CredentialsUnavailable, "gave no answer"),
        (Reply(close="after"), CredentialsUnavailable, "gave no answer"),
        (Reply(truncate=True, json={"canary": 1}), CredentialsUnavailable, "gave no answer"),
        (Reply(raw=b"canary\r\n\r\n"), CredentialsUnavailable, "gave no answer"),
        (Reply(body=b"canary" * 20_000), CredentialsUnavailable, "gave no answer"),
    ],
)
async def test_no_token(server: ScriptedServer, reply: Reply, kind: type[TokenVaultError], says: str) -> None:
    server.on("/token", reply)
    with pytest.raises(kind, match=says) as caught:
        await got(credentials_at(server))
    assert server.url + "/token" in caught.value.message
    assert caught.value.retry_after == (7 if reply.status == 503 else None)
    told = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    assert "canary" not in told
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


async def test_nobody_there(server: ScriptedServer) -> None:
    await server.stop()
    with pytest.raises(CredentialsUnavailable, match="gave no answer"):
        await got(credentials_at(server))


@pytest.mark.parametrize("answer", [Reply(delay=60), Reply(json={"a": "b" * 500}, chunk_pause=0.05)])
async def test_an_answer_that_takes_too_long(server: ScriptedServer, answer: Reply) -> None:
    server.on("/token", answer)
    with pytest.raises(CredentialsUnavailable, match="gave no answer"):
        await got(credentials_at(server, timeout=0.3))


# On calls


async def test_a_refused_token_is_replaced_and_the_call_made_once_more(
    connect: Connect, address: str, files: Files, fake: FakeVault, server: ScriptedServer
) -> None:
    vault = connect(address, **files.parameters(), credentials=credentials_at(server))
    fake.answers.extend([TOKEN, bearer_invalid(), TOKEN])
    await vault.get_token("acme", consumer="alice")
    assert (await vault.get_token("acme", consumer="alice")).access_token == "s3cret"
    assert fake.shown == [["Bearer token-1"], ["Bearer token-1"], ["Bearer token-2"]]


async def test_a_token_refused_twice_is_told(
    connect: Connect, address: str, files: Files, fake: FakeVault, server: ScriptedServer
) -> None:
    vault = connect(address, **files.parameters(), credentials=credentials_at(server))
    for _ in range(5):
        fake.answers.extend([bearer_invalid(), bearer_invalid()])
        with pytest.raises(BearerInvalid):
            await vault.get_token("acme", consumer="alice")
        assert not fake.answers
    assert len(server.requests("/token")) == 2, "a mistake in somebody's configuration floods no server"


async def test_no_token_no_call(
    connect: Connect, address: str, files: Files, fake: FakeVault, server: ScriptedServer
) -> None:
    server.on("/token", Reply(status=401, json={"error": "invalid_client"}))
    vault = connect(address, **files.parameters(), credentials=credentials_at(server))
    with pytest.raises(CredentialsRefused):
        await vault.get_token("acme", consumer="alice")
    assert fake.requests == []


async def test_the_call_s_deadline_is_for_all_of_it(
    connect: Connect, address: str, files: Files, fake: FakeVault, server: ScriptedServer
) -> None:
    server.on("/token", Reply(delay=60))
    vault = connect(address, **files.parameters(), credentials=credentials_at(server))
    with pytest.raises(CredentialsUnavailable, match="in time"):
        await vault.get_token("acme", consumer="alice", timeout=0.2)
    assert fake.requests == []


async def test_one_token_for_both_clients(
    address: str, files: Files, fake: FakeVault, server: ScriptedServer
) -> None:
    credentials = credentials_at(server)
    fake.answers.extend([TOKEN, TOKEN])
    with TokenVaultClient(address, **files.parameters(), credentials=credentials) as vault:
        await asyncio.to_thread(vault.get_token, "acme", consumer="alice")
    async with AsyncTokenVaultClient(address, **files.parameters(), credentials=credentials) as twin:
        await twin.get_token("acme", consumer="alice")
    assert len(server.requests("/token")) == 1


async def test_without_credentials_nothing_is_shown(vault: AsyncTokenVaultClient, fake: FakeVault) -> None:
    fake.answers.append(TOKEN)
    await vault.get_token("acme", consumer="alice")
    assert fake.shown == [[]]


# Parameters


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"token_endpoint": "http://login.example/token"}, "not an https URL"),
        ({"token_endpoint": "login.example/token"}, "not an https URL"),
        ({"token_endpoint": "https://"}, "not an https URL"),
        ({"client_secret": None}, "exactly one of client_secret and private_key"),
        ({"client_secret": ""}, "exactly one of client_secret and private_key"),
        ({"private_key": "canary"}, "exactly one of client_secret and private_key"),
        ({"client_secret": None, "private_key": "canary"}, "private_key: not an unencrypted PEM"),
        ({"certificate": "bot.pem"}, "give both or neither"),
        ({"private_key_file": "bot.pem"}, "give both or neither"),
    ],
)
def test_parameters_that_are_wrong(given: dict[str, Any], says: str) -> None:
    right: dict[str, Any] = {
        "token_endpoint": "https://login.example/token",
        "client_id": "shop",
        "client_secret": "canary",
    }
    with pytest.raises(ValueError, match=says) as caught:
        ClientCredentials(**right | given)
    assert "canary" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "native",
    [ec.generate_private_key(ec.SECP256K1()), ec.generate_private_key(ec.SECP256R1())],
    ids=["curve", "encrypted"],
)
def test_private_keys_that_do_not_do(native: Any) -> None:
    encryption = BestAvailableEncryption(b"x") if native.curve.name == "secp256r1" else None
    with pytest.raises(ValueError, match="private_key: not an unencrypted PEM"):
        ClientCredentials(
            token_endpoint="https://a.example", client_id="a", private_key=pem_of(native, encryption)
        )


def test_files_that_do_not_do(files: Files, tmp_path: Path) -> None:
    right: dict[str, Any] = {"token_endpoint": "https://a.example", "client_id": "a", "client_secret": "b"}
    with pytest.raises(FileNotFoundError, match=r"no\.pem"):
        ClientCredentials(**right, ca=tmp_path / "no.pem")
    with pytest.raises(ValueError, match=f"{files.private_key}: holds no PEM CERTIFICATE"):
        ClientCredentials(**right, ca=files.private_key)
    pair: dict[str, Any] = {"certificate": files.certificate, "private_key_file": files.private_key}
    assert ClientCredentials(**right, **pair)
    files.private_key.write_text(pem_of(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(ValueError, match="not certificates and the key of the second"):
        ClientCredentials(**right, **pair)
    files.private_key.write_text(
        pem_of(ec.generate_private_key(ec.SECP256R1()), BestAvailableEncryption(b"x"))
    )
    with pytest.raises(ValueError, match="not certificates and the key of the second"):
        ClientCredentials(**right, **pair)


def test_no_secret_is_shown() -> None:
    credentials = ClientCredentials(
        token_endpoint="https://login.example/token", client_id="shop", client_secret="canary"
    )
    assert "canary" not in f"{credentials!r} {credentials} {vars(credentials)}"


# The extra


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def test_the_client_stays_thin() -> None:
    heavy = "authlib", "cryptography", "httpx2", "joserfc"
    loaded = run("import json, sys, tokenvault; print(json.dumps(sorted(sys.modules)))")
    assert not {name.partition(".")[0] for name in json.loads(loaded)} & set(heavy)


@pytest.mark.parametrize("missing", ["httpx2", "joserfc", "cryptography"])
def test_without_the_extra_it_is_named(missing: str) -> None:
    code = f"""
import sys
sys.modules[{missing!r}] = None
from tokenvault import ClientCredentials
try:
    ClientCredentials(token_endpoint="https://a.example", client_id="a", client_secret="b")
except ImportError as error:
    print(error, error.__context__ is None or error.__suppress_context__)
"""
    said = run(code)
    assert said.startswith("ClientCredentials needs ")
    assert "pip install 'tokenvault[client-credentials]' True" in said
