"""How the client says who it is, as the server sees it."""

import base64
import time
import traceback
from typing import Any
from urllib.parse import unquote_plus

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from joserfc import jwt

from tests.adapters.oauth_world import REFRESH, SECRET, Connect, pem_of
from tests.authserver.scripted import ScriptedServer
from tokenvault_sidecar.adapters.client_auth import ClientAuth
from tokenvault_sidecar.adapters.jose import SignatureRegistry, read_private_key
from tokenvault_sidecar.adapters.oauth import OAuthServer, ServerSettings
from tokenvault_sidecar.core.model import Secret


async def test_basic_is_form_encoded(server: ScriptedServer, connect: Connect) -> None:
    await connect(client_id="cl:i ent").refresh(REFRESH)
    scheme, _, credentials = server.requests("/token")[0].headers["authorization"].partition(" ")
    assert scheme == "Basic"
    encoded = base64.b64decode(credentials).decode("ascii")
    assert [unquote_plus(part) for part in encoded.split(":")] == ["cl:i ent", SECRET]


async def test_post_sends_the_secret_in_the_body(server: ScriptedServer, connect: Connect) -> None:
    await connect(client_auth=ClientAuth.CLIENT_SECRET_POST).refresh(REFRESH)
    (seen,) = server.requests("/token")
    assert "authorization" not in seen.headers
    assert (seen.form["client_id"], seen.form["client_secret"]) == ("client", SECRET)
    assert seen.form["refresh_token"] == REFRESH.reveal()


async def test_public_client_only_says_its_name(server: ScriptedServer, connect: Connect) -> None:
    await connect(client_auth=ClientAuth.NONE, client_secret=None).refresh(REFRESH)
    (seen,) = server.requests("/token")
    assert "authorization" not in seen.headers
    assert seen.form["client_id"] == "client"
    assert "client_secret" not in seen.form


@pytest.mark.parametrize(
    ("key", "algorithm", "used"),
    [
        (rsa.generate_private_key(public_exponent=65537, key_size=2048), None, "RS256"),
        (rsa.generate_private_key(public_exponent=65537, key_size=2048), "PS256", "PS256"),
        (ec.generate_private_key(ec.SECP256R1()), None, "ES256"),
        (ec.generate_private_key(ec.SECP384R1()), None, "ES384"),
        (ed25519.Ed25519PrivateKey.generate(), None, "EdDSA"),
    ],
    ids=["RSA", "RSA-PSS", "P-256", "P-384", "Ed25519"],
)
async def test_private_key_jwt(
    server: ScriptedServer, connect: Connect, key: Any, algorithm: str | None, used: str
) -> None:
    pem = pem_of(key)
    oauth = connect(
        client_auth=ClientAuth.PRIVATE_KEY_JWT,
        client_secret=None,
        private_key=Secret(pem),
        private_key_id="k-1",
        private_key_algorithm=algorithm,
    )
    await oauth.refresh(REFRESH)
    await oauth.revoke(REFRESH, hint="refresh_token")
    seen = [*server.requests("/token"), *server.requests("/revoke")]
    registry = SignatureRegistry(frozenset([used]))
    tokens = [
        jwt.decode(one.form["client_assertion"], read_private_key(pem), registry=registry) for one in seen
    ]
    assert len({token.claims["jti"] for token in tokens}) == 2
    for one, token in zip(seen, tokens, strict=True):
        assert one.form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        assert "client_secret" not in one.form
        assert "authorization" not in one.headers
        assert (token.header["alg"], token.header["kid"]) == (used, "k-1")
        assert token.claims["iss"] == token.claims["sub"] == "client"
        assert token.claims["aud"] == server.issuer
        assert token.claims["exp"] - token.claims["iat"] == 60
        assert abs(token.claims["iat"] - time.time()) < 60


async def test_assertion_audience_may_be_configured(server: ScriptedServer, connect: Connect) -> None:
    pem = pem_of(ec.generate_private_key(ec.SECP256R1()))
    await connect(
        client_auth=ClientAuth.PRIVATE_KEY_JWT,
        private_key=Secret(pem),
        assertion_audience="https://aud.example",
    ).refresh(REFRESH)
    assertion = server.requests("/token")[0].form["client_assertion"]
    claims = jwt.decode(assertion, read_private_key(pem)).claims
    assert claims["aud"] == "https://aud.example"


def test_unusable_private_key_is_not_quoted() -> None:
    key = pem_of(ec.generate_private_key(ec.SECP256R1()))
    weak = pem_of(rsa.generate_private_key(public_exponent=65537, key_size=1024))
    for pem, algorithm in (
        ("key-canary", None),
        (key[:80], None),
        (key, "RS256"),
        (key, "HS256"),
        (weak, None),
    ):
        settings = ServerSettings(
            "https://as.example",
            "client",
            client_auth=ClientAuth.PRIVATE_KEY_JWT,
            private_key=Secret(pem),
            private_key_algorithm=algorithm,
        )
        with pytest.raises(ValueError, match="private") as caught:
            OAuthServer(settings, brand="acme")
        told = "".join(traceback.format_exception(caught.value))
        assert caught.value.__context__ is None
        assert "canary" not in told
        assert key[40:70] not in told
