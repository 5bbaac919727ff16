"""Plain OAuth requests, for tests that speak to the authorization server themselves."""

import base64
import hashlib
import secrets
import ssl
from typing import Any, cast
from urllib.parse import quote_plus, urlencode

import httpx2

from tests.authserver.clients import Registration
from tests.authserver.consumer import Consumer
from tests.authserver.oidc import OidcProvider

SCOPE = "openid offline_access profile email api:read"


_TRUSTS_NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def plain_http() -> httpx2.AsyncClient:
    """An HTTP client for http only: loading CA certificates would take longer than the requests."""
    return httpx2.AsyncClient(verify=_TRUSTS_NOBODY, trust_env=False, timeout=30.0)


class PlainClient:
    """A registration with a secret, at one server. It keeps nothing and catches nothing."""

    def __init__(self, provider: OidcProvider, registration: Registration) -> None:
        self._provider = provider
        self._registration = registration

    def authorization_url(self, code_verifier: str, *, scope: str = SCOPE, **more: str) -> str:
        challenge = base64.urlsafe_b64encode(hashlib.sha256(code_verifier.encode()).digest())
        parameters = {
            "client_id": self._registration.client_id,
            "response_type": "code",
            "redirect_uri": self._registration.redirect_uris[0],
            "scope": scope,
            "state": secrets.token_urlsafe(),
            "prompt": "consent",
            "code_challenge": challenge.rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        return f"{self._provider.authorization_endpoint}?{urlencode(parameters | more)}"

    async def login(self, account: str = "alice", *, scope: str = SCOPE) -> dict[str, Any]:
        """The token answer of a whole code flow."""
        verifier = secrets.token_urlsafe(32)
        answer = await Consumer().authorize(self.authorization_url(verifier, scope=scope), account)
        redeemed = await self.token(
            grant_type="authorization_code",
            code=answer["code"],
            redirect_uri=self._registration.redirect_uris[0],
            code_verifier=verifier,
        )
        redeemed.raise_for_status()
        return cast("dict[str, Any]", redeemed.json())

    async def token(self, **form: str) -> httpx2.Response:
        return await self._post(self._provider.token_endpoint, form)

    async def refresh(self, refresh_token: str) -> httpx2.Response:
        return await self.token(grant_type="refresh_token", refresh_token=refresh_token)

    async def revoke(self, token: str) -> httpx2.Response:
        return await self._post(self._provider.revocation_endpoint, {"token": token})

    async def userinfo(self, access_token: str) -> httpx2.Response:
        async with plain_http() as http:
            return await http.get(
                self._provider.userinfo_endpoint, headers={"Authorization": f"Bearer {access_token}"}
            )

    async def _post(self, url: str, form: dict[str, str]) -> httpx2.Response:
        registration = self._registration
        assert registration.secret is not None
        headers = {}
        if registration.auth_method == "client_secret_basic":  # form-encoded: RFC 6749 section 2.3.1
            pair = f"{quote_plus(registration.client_id)}:{quote_plus(registration.secret)}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form = form | {"client_id": registration.client_id, "client_secret": registration.secret}
        async with plain_http() as http:
            return await http.post(url, data=form, headers=headers)
