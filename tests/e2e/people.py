"""A consumer who delegates at a real authorization server, and the brand's API that takes the token."""

from tests.authserver.consumer import Consumer
from tests.authserver.oidc import OidcProvider
from tests.authserver.plain_client import plain_http
from tokenvault import AsyncTokenVaultClient, Delegated, Token


async def delegate(
    vault: AsyncTokenVaultClient,
    brand: str,
    *,
    account: str = "alice",
    consumer: str | None = None,
    conversation: str | None = None,
) -> Delegated:
    """The whole of a delegation: challenge, login, consent, completion."""
    challenge = await vault.start_delegation(brand, consumer=consumer, conversation=conversation)
    answer = await Consumer().authorize(challenge.authorization_url, account)
    return await vault.complete_delegation(answer)


async def call_api(provider: OidcProvider, token: Token) -> int:
    """The status that the brand's API answers the token with: 200, or 401 where it is over."""
    async with plain_http() as http:
        answer = await http.get(
            provider.userinfo_endpoint, headers={"Authorization": token.authorization_header}
        )
    return answer.status_code
