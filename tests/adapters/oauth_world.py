"""An authorization server to talk to, and the adapter that does; what no error may hold."""

import base64
import ssl
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from tests.authserver.scripted import Reply, ScriptedServer
from tokenvault_sidecar.adapters.oauth import OAuthServer, ServerSettings
from tokenvault_sidecar.core.errors import ServerUnavailable
from tokenvault_sidecar.core.model import Secret
from tokenvault_sidecar.core.ports import AuthorizationRequest, AuthorizationServer
from tokenvault_sidecar.devkit import DevelopmentCA

SECRET = "p%4+&:/ =ä~*canary"  # what form-encoding is for
CODE = Secret("code-canary&=%+ä")
VERIFIER = Secret("verifier-canary")
REFRESH = Secret("refresh-canary&=%+ä")
GIVEN = {"access_token": "at-canary", "token_type": "Bearer", "expires_in": 30}

Connect = Callable[..., OAuthServer]


def oauth_server(server: ScriptedServer, *, brand: str = "acme", **given: Any) -> OAuthServer:
    settings: dict[str, Any] = {
        "issuer": server.issuer,
        "client_id": "client",
        "client_secret": Secret(SECRET),
        "development": True,
        **given,
    }
    return OAuthServer(ServerSettings(**settings), brand=brand)


def with_endpoints(url: str, **given: Any) -> OAuthServer:
    settings: dict[str, Any] = {
        "issuer": url,
        "client_id": "client",
        "client_secret": Secret(SECRET),
        "authorization_endpoint": url + "/authorize",
        "token_endpoint": url + "/token",
        **given,
    }
    return OAuthServer(ServerSettings(**settings), brand="acme")


def request_of(**given: Any) -> AuthorizationRequest:
    fields: dict[str, Any] = {
        "redirect_uri": "https://bot.example/cb?a=1",
        "scopes": ("openid", "profile"),
        "state": Secret("state-1"),
        "nonce": Secret("nonce-1"),
        "code_challenge": "challenge-1",
        **given,
    }
    return AuthorizationRequest(**fields)


async def exchange(oauth: AuthorizationServer) -> Mapping[str, object]:
    return await oauth.exchange(CODE, redirect_uri="https://bot.example/cb?a=1", code_verifier=VERIFIER)


def refusal(error: object, status: int = 400) -> Reply:
    return Reply(status=status, json={"error": error, "error_description": "description-canary"})


async def never_sent(oauth: OAuthServer) -> None:
    with pytest.raises(ServerUnavailable) as caught:
        await oauth.refresh(REFRESH)
    assert type(caught.value) is ServerUnavailable, "nothing was lost: nothing was sent"
    assert "'acme'" in caught.value.message
    holds_no_secret(caught.value)


def holds_no_secret(error: BaseException) -> None:
    """Neither what is printed nor what hangs on the exception."""
    assert error.__context__ is None
    assert error.__cause__ is None
    told = "".join(traceback.format_exception(error)) + str(error) + repr(error) + repr(vars(error))
    assert "canary" not in told.replace('"canary"', "")
    assert base64.b64encode(SECRET.encode()).decode() not in told


def pem_of(key: Any) -> str:
    return str(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
    )


def server_tls(ca: DevelopmentCA, folder: Path, **names: Any) -> ssl.SSLContext:
    issued = ca.issue(name="as", **names)
    (folder / "server.pem").write_bytes(issued.certificate_pem)
    (folder / "server.key").write_bytes(issued.private_key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    return context
