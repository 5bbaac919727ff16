"""An authorization server that answers as a test says, and a consumer who consents at once.

The code carries all that the server must know of the login, so that tests
may run many at once: `account.random.nonce`.
"""

import hashlib
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.authserver.clients import REDIRECT_URI
from tests.authserver.scripted import Answer, Fault, Reply, ScriptedServer, Seen
from tests.e2e.vaults import Whose
from tokenvault import AsyncTokenVaultClient, Challenge, Delegated

CLIENT_ID = "scripted-client"
LIFE = 600


def consent(server: ScriptedServer, challenge: Challenge, account: str = "alice") -> dict[str, str]:
    """What the redirect URI gets once `account` has consented."""
    asked = dict(parse_qsl(urlsplit(challenge.authorization_url).query))
    code = f"{account}.{secrets.token_urlsafe(16)}.{asked['nonce']}"
    return {"state": asked["state"], "code": code, "iss": server.issuer}


def access_token_for(grant: str) -> str:
    """The access token that a code or refresh token is redeemed for."""
    return f"at-{hashlib.sha256(grant.encode()).hexdigest()}"


def refresh_token_for(grant: str) -> str:
    """The refresh token that comes with it."""
    account = grant.partition(".")[0]
    return f"{account}.rt-{hashlib.sha256(grant.encode()).hexdigest()}."


def issuing(
    server: ScriptedServer, fields: Mapping[str, object] | None = None, *, wrong: Fault | None = None
) -> Answer:
    """Tokens for whatever is redeemed; the id token `wrong` in one way.

    `fields` replace those of the answer, None leaves one out.
    """

    def answer(seen: Seen) -> Reply:
        grant = seen.form.get("code") or seen.form["refresh_token"]
        account, _, nonce = grant.split(".")
        issued: dict[str, object] = {
            "access_token": access_token_for(grant),
            "token_type": "Bearer",
            "expires_in": LIFE,
            "refresh_token": refresh_token_for(grant),
            "id_token": server.mint(wrong, client_id=CLIENT_ID, subject=account, nonce=nonce or None),
        } | dict(fields or {})
        return Reply(json={name: value for name, value in issued.items() if value is not None})

    return answer


def scripted_brand(server: ScriptedServer, name: str, **keys: Any) -> dict[str, Any]:
    """A brand's table with endpoints of its own below `/name`, of which `/name/token` is to be scripted."""
    table: dict[str, Any] = {
        "issuer": server.issuer,
        "authorization_endpoint": f"{server.url}/{name}/authorize",
        "token_endpoint": f"{server.url}/{name}/token",
        "revocation_endpoint": f"{server.url}/{name}/revoke",
        "jwks_uri": f"{server.url}/jwks",
        "sends_iss": True,
        "client_id": CLIENT_ID,
        "client_auth": "none",
        "redirect_uris": [REDIRECT_URI],
        "consumer": {"scopes": ["openid", "offline_access"]},
        "conversation": {"scopes": ["orders"]},
    } | keys
    return {key: value for key, value in table.items() if value is not None}


def token_path(brand: str) -> str:
    """Where a scripted brand's codes and refresh tokens are redeemed."""
    return f"/{brand}/token"


async def delegate(
    vault: AsyncTokenVaultClient, server: ScriptedServer, brand: str, whose: Whose, account: str = "alice"
) -> Delegated:
    """The whole of a delegation: challenge, consent, completion."""
    challenge = await vault.start_delegation(brand, **whose)
    return await vault.complete_delegation(consent(server, challenge, account))
