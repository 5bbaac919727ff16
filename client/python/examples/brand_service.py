"""A brand's service calls the brand's API as a consumer who has delegated that to it.

    python brand_service.py BRAND CONSUMER URL, with the extra httpx2

TOKENVAULT_* say where the sidecar is, with the service's own certificate and key. Where the sidecar wants to
see an access token of the service too, it is got by TOKEN_ENDPOINT, CLIENT_ID, CLIENT_SECRET and RESOURCE.
"""

import os
import sys

import httpx2

from tokenvault import ClientCredentials, ConsentRequired, TokenVaultClient
from tokenvault.http import httpx2_auth


def credentials() -> ClientCredentials | None:
    if "TOKEN_ENDPOINT" not in os.environ:
        return None
    return ClientCredentials(
        token_endpoint=os.environ["TOKEN_ENDPOINT"],
        client_id=os.environ["CLIENT_ID"],
        client_secret=os.environ["CLIENT_SECRET"],
        resource=os.environ.get("RESOURCE"),
    )


def main(brand: str, consumer: str, url: str) -> int:
    with TokenVaultClient.from_environment(credentials=credentials()) as vault:
        auth = httpx2_auth(vault.token_source(brand, consumer=consumer))
        try:
            answer = httpx2.get(url, auth=auth)
        except ConsentRequired:
            print("the consumer has to log in first: a bot asks for that")
            return 1
    print(f"the brand's API answered {answer.status_code}")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: brand_service.py BRAND CONSUMER URL")
    sys.exit(main(*sys.argv[1:]))
