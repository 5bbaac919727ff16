"""What the other tests rely on the authorization server for."""

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from tests.authserver import clients
from tests.authserver.consumer import AuthorizationPageError, Consumer
from tests.authserver.fixtures import StartProvider
from tests.authserver.node import HERE
from tests.authserver.oidc import READ_SCOPE, VAULT_AUDIENCE, OidcProvider, sha256
from tests.authserver.plain_client import PlainClient, plain_http
from tokenvault_sidecar.devkit import DevelopmentCA


@pytest.fixture
def client(oidc_provider: OidcProvider) -> PlainClient:
    return PlainClient(oidc_provider, clients.BASIC)


async def get_json(url: str) -> dict[str, object]:
    async with plain_http() as http:
        answer: dict[str, object] = (await http.get(url)).raise_for_status().json()
        return answer


async def test_metadata(oidc_provider: OidcProvider) -> None:
    metadata = await get_json(f"{oidc_provider.issuer}/.well-known/oauth-authorization-server")
    assert metadata["issuer"] == oidc_provider.issuer
    assert metadata["authorization_endpoint"] == oidc_provider.authorization_endpoint
    assert metadata["token_endpoint"] == oidc_provider.token_endpoint
    assert metadata["revocation_endpoint"] == oidc_provider.revocation_endpoint
    assert metadata["introspection_endpoint"] == oidc_provider.introspection_endpoint
    assert metadata["userinfo_endpoint"] == oidc_provider.userinfo_endpoint
    assert metadata["jwks_uri"] == oidc_provider.jwks_uri
    assert metadata["authorization_response_iss_parameter_supported"] is True
    assert "pushed_authorization_request_endpoint" not in metadata


async def test_answer_to_the_redirect_uri(oidc_provider: OidcProvider, client: PlainClient) -> None:
    answer = await Consumer().authorize(client.authorization_url("v" * 43, state="st%ate"))
    assert answer.keys() == {"code", "state", "iss"}
    assert answer["state"] == "st%ate"
    assert answer["iss"] == oidc_provider.issuer


@pytest.mark.parametrize("registration", [clients.BASIC, clients.POST], ids=lambda r: r.auth_method)
async def test_login_brings_tokens_that_work(
    oidc_provider: OidcProvider, registration: clients.Registration
) -> None:
    client = PlainClient(oidc_provider, registration)
    tokens = await client.login("bob")
    assert tokens.keys() >= {"access_token", "refresh_token", "id_token", "expires_in"}
    assert set(tokens["scope"].split()) == {"openid", "offline_access", "profile", "email", "api:read"}
    answer = await client.userinfo(tokens["access_token"])
    assert answer.status_code == 200
    assert answer.json()["sub"] == "bob"


async def test_no_refresh_token_without_offline_access(client: PlainClient) -> None:
    tokens = await client.login(scope="openid api:read")
    assert "refresh_token" not in tokens


@pytest.mark.parametrize(("registration", "alg"), [(clients.BASIC, "RS256"), (clients.ES256, "ES256")])
async def test_id_token_is_signed(
    oidc_provider: OidcProvider, registration: clients.Registration, alg: str
) -> None:
    tokens = await PlainClient(oidc_provider, registration).login()
    keys = KeySet.import_key_set(await get_json(oidc_provider.jwks_uri))  # type: ignore[arg-type]  # any JSON
    token = jwt.decode(tokens["id_token"], keys, algorithms=[alg])
    assert token.claims["sub"] == "alice"
    assert token.claims["aud"] == registration.client_id


async def test_pkce_is_required(client: PlainClient) -> None:
    answer = await Consumer().authorize(
        client.authorization_url("", code_challenge="", code_challenge_method="")
    )
    assert answer["error"] == "invalid_request"


async def test_code_works_once(client: PlainClient) -> None:
    answer = await Consumer().authorize(client.authorization_url("v" * 43))
    form = {"code": answer["code"], "redirect_uri": clients.REDIRECT_URI, "code_verifier": "v" * 43}
    assert (await client.token(grant_type="authorization_code", **form)).status_code == 200
    replayed = await client.token(grant_type="authorization_code", **form)
    assert replayed.json()["error"] == "invalid_grant"


async def test_secret_has_to_be_form_encoded(oidc_provider: OidcProvider) -> None:
    assert clients.BASIC.secret is not None
    async with plain_http() as http:
        answer = await http.post(
            oidc_provider.token_endpoint,
            data={"grant_type": "refresh_token", "refresh_token": "none"},
            auth=(clients.BASIC.client_id, clients.BASIC.secret),
        )
    assert answer.json()["error"] == "invalid_request"


async def test_rotation_and_what_a_replay_costs(oidc_provider: OidcProvider, client: PlainClient) -> None:
    first = await client.login()
    second = (await client.refresh(first["refresh_token"])).raise_for_status().json()
    assert second["refresh_token"] != first["refresh_token"]
    assert "id_token" in second

    replay = await client.refresh(first["refresh_token"])
    assert replay.json()["error"] == "invalid_grant"
    assert (await client.refresh(second["refresh_token"])).json()["error"] == "invalid_grant"
    assert (await client.userinfo(second["access_token"])).status_code == 401

    login = next(e for e in oidc_provider.log() if e.refresh_token == sha256(first["refresh_token"]))
    family = oidc_provider.token_requests(family=login.family)
    assert [e.status for e in family] == [200, 200, 400]
    assert family[1].presented == family[2].presented == sha256(first["refresh_token"])
    assert family[1].access_token == sha256(second["access_token"])
    assert any(e.event == "grant_revoked" and e.family == login.family for e in oidc_provider.log())


async def test_without_rotation_the_refresh_token_stays(start_provider: StartProvider) -> None:
    client = PlainClient(start_provider(rotate=False), clients.BASIC)
    tokens = await client.login()
    for _ in range(2):
        renewed = (await client.refresh(tokens["refresh_token"])).raise_for_status().json()
        assert renewed["refresh_token"] == tokens["refresh_token"]


async def test_revocation_ends_the_family(oidc_provider: OidcProvider, client: PlainClient) -> None:
    tokens = await client.login()
    assert (await client.revoke(tokens["refresh_token"])).status_code == 200
    assert (await client.userinfo(tokens["access_token"])).status_code == 401
    assert (await client.refresh(tokens["refresh_token"])).json()["error"] == "invalid_grant"
    presented = {(e.event, e.presented, e.status) for e in oidc_provider.log()}
    assert ("revocation", sha256(tokens["refresh_token"]), 200) in presented
    assert ("userinfo", sha256(tokens["access_token"]), 401) in presented


async def test_access_token_expires(start_provider: StartProvider) -> None:
    client = PlainClient(start_provider(access_token_ttl=1), clients.BASIC)
    tokens = await client.login()
    assert tokens["expires_in"] == 1
    deadline = time.monotonic() + 30
    while (await client.userinfo(tokens["access_token"])).status_code == 200:
        assert time.monotonic() < deadline, "still alive"
    renewed = (await client.refresh(tokens["refresh_token"])).raise_for_status().json()
    assert renewed["access_token"] != tokens["access_token"]


@pytest.mark.parametrize("page", ["login", "consent"])
async def test_consumer_declines(client: PlainClient, page: str) -> None:
    url = client.authorization_url("v" * 43, state="s")
    answer = await Consumer().authorize(url, decline="login" if page == "login" else "consent")
    assert answer["error"] == "access_denied"
    assert answer["state"] == "s"
    assert "code" not in answer


async def test_error_page_is_told(client: PlainClient) -> None:
    url = client.authorization_url("v" * 43, client_id="nobody")
    with pytest.raises(AuthorizationPageError, match="invalid_client"):
        await Consumer().authorize(url)


async def test_client_credentials_jwt(oidc_provider: OidcProvider) -> None:
    service = PlainClient(oidc_provider, clients.SERVICE)
    answer = await service.token(grant_type="client_credentials", resource=VAULT_AUDIENCE, scope=READ_SCOPE)
    keys = KeySet.import_key_set(await get_json(oidc_provider.jwks_uri))  # type: ignore[arg-type]  # any JSON
    token = jwt.decode(answer.raise_for_status().json()["access_token"], keys, algorithms=["RS256"])
    assert token.header["typ"] == "at+jwt"
    assert token.claims["aud"] == VAULT_AUDIENCE
    assert token.claims["scope"] == READ_SCOPE
    assert token.claims["client_id"] == clients.SERVICE.client_id

    unknown = await service.token(grant_type="client_credentials", resource="https://other.example")
    assert unknown.json()["error"] == "invalid_target"


async def test_private_key_jwt(oidc_provider: OidcProvider) -> None:
    assert clients.PRIVATE_KEY_JWT.private_key is not None
    client_id, now = clients.PRIVATE_KEY_JWT.client_id, int(time.time())
    claims = {"iss": client_id, "sub": client_id, "aud": oidc_provider.issuer, "iat": now, "exp": now + 60}
    key = ECKey.import_key(clients.PRIVATE_KEY_JWT.private_key)
    form = {
        "grant_type": "refresh_token",
        "refresh_token": "none",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": jwt.encode({"alg": "ES256"}, claims | {"jti": str(time.time_ns())}, key),
    }
    async with plain_http() as http:
        answer = await http.post(oidc_provider.token_endpoint, data=form)
    assert answer.json()["error"] == "invalid_grant"  # and not invalid_client


async def test_token_endpoint_faults(start_provider: StartProvider) -> None:
    provider = start_provider()
    client = PlainClient(provider, clients.BASIC)
    tokens = await client.login()
    provider.fault_token_endpoint(status=503, retry_after=7, times=1)
    broken = await client.refresh(tokens["refresh_token"])
    assert broken.status_code == 503
    assert broken.headers["Retry-After"] == "7"
    assert (await client.refresh(tokens["refresh_token"])).status_code == 200

    provider.fault_token_endpoint(status=401, error="invalid_client")
    assert (await client.refresh("none")).json()["error"] == "invalid_client"
    provider.heal_token_endpoint()
    assert (await client.refresh("none")).json()["error"] == "invalid_grant"
    assert [e.status for e in provider.token_requests()] == [200, 503, 200, 401, 400]


async def test_new_signing_keys_leave_tokens_alone(start_provider: StartProvider) -> None:
    provider = start_provider()
    client = PlainClient(provider, clients.BASIC)

    async def kids() -> list[str]:
        return [key["kid"] for key in (await get_json(provider.jwks_uri))["keys"]]  # type: ignore[attr-defined]  # JSON

    before, tokens = await kids(), await client.login()
    provider.rotate_keys()
    both = await kids()
    assert both[2:] == before
    assert (await client.userinfo(tokens["access_token"])).status_code == 200
    provider.rotate_keys(forget=True)
    assert set(both).isdisjoint(await kids())
    assert (await client.refresh(tokens["refresh_token"])).status_code == 200


async def test_nothing_is_forgotten_under_load(start_provider: StartProvider) -> None:
    provider = start_provider()
    client = PlainClient(provider, clients.BASIC)
    tokens = await client.login()
    form = {"grant_type": "client_credentials", "client_id": clients.SERVICE.client_id}
    form["client_secret"] = clients.SERVICE.secret or ""
    async with plain_http() as http:  # oidc-provider's own storage keeps the 1000 newest entries
        for _ in range(22):
            answers = await asyncio.gather(
                *(http.post(provider.token_endpoint, data=form) for _ in range(50))
            )
            assert {answer.status_code for answer in answers} == {200}
    assert len(provider.token_requests(grant_type="client_credentials")) == 1100
    assert (await client.userinfo(tokens["access_token"])).status_code == 200
    assert (await client.refresh(tokens["refresh_token"])).status_code == 200


async def test_https(start_provider: StartProvider, tmp_path: Path) -> None:
    ca = DevelopmentCA.create("authorization server")
    issued = ca.issue(name="server", ips=["127.0.0.1"])
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    certificate.write_bytes(issued.certificate_pem)
    key.write_bytes(issued.private_key_pem)
    provider = start_provider(tls=(certificate, key))
    assert provider.issuer.startswith("https://")

    url = PlainClient(provider, clients.BASIC).authorization_url("v" * 43)
    trusting = ssl.create_default_context(cadata=ca.certificate_pem.decode())
    assert (await Consumer(verify=trusting).authorize(url))["iss"] == provider.issuer


async def test_log_holds_no_token(oidc_provider: OidcProvider, client: PlainClient) -> None:
    tokens = await client.login()
    text = "".join(map(repr, oidc_provider.log()))
    assert sha256(tokens["access_token"]) in text
    assert tokens["access_token"] not in text
    assert tokens["refresh_token"] not in text


def test_start_that_fails_says_why(tmp_path: Path) -> None:
    nothing = tmp_path / "missing.pem"
    with pytest.raises(RuntimeError, match=r"missing\.pem"), OidcProvider(tls=(nothing, nothing)):
        pass


def test_it_never_outlives_who_started_it(tmp_path: Path) -> None:
    program = (
        "import os, signal; from tests.authserver.oidc import OidcProvider;"
        "print(OidcProvider().start().port, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # a killed one leaves its folder behind
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=HERE.parent.parent, env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL

    def answers() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", int(done.stdout)), timeout=5):
                return True
        except OSError:
            return False

    deadline = time.monotonic() + 30
    while answers():
        assert time.monotonic() < deadline, "still there"
        time.sleep(0.02)
