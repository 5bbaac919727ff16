"""Who appears: Alice with her browser, the brand's API, and workloads with a certificate each."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.authserver.oidc import LogEntry, OidcProvider, sha256
from tests.authserver.plain_client import plain_http
from tests.demo.story import NotAsSaid, expect
from tests.running import CallerFiles
from tokenvault import Token, TokenVaultError
from tokenvault_sidecar.devkit import DevelopmentCA, Issued

_PATIENCE = 45.0


async def refused(call: Awaitable[object], by: type[TokenVaultError]) -> str:
    """The name of the error, `by` or a kind of it, that the call must raise. Raises NotAsSaid."""
    try:
        await call
    except by as error:
        return type(error).__name__
    raise NotAsSaid(f"it was answered, where {by.__name__} was expected")


async def until(condition: Callable[[], bool], otherwise: str) -> None:
    """Wait for the condition, for some seconds at most. Raises NotAsSaid(otherwise)."""
    try:
        async with asyncio.timeout(_PATIENCE):
            while not condition():  # noqa: ASYNC110  # another process makes it true
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise NotAsSaid(f"{otherwise}, within {_PATIENCE:.0f} seconds") from None


async def expiry(token: Token) -> None:
    """Wait until the token is over."""
    expect(token.expire_time, "the token has no end")
    assert token.expire_time is not None
    await asyncio.sleep((token.expire_time - datetime.now(UTC)).total_seconds())


@dataclass(frozen=True, slots=True)
class BrandApi:
    """The server's userinfo endpoint, as the API that the tokens are for; and the server's own log."""

    provider: OidcProvider

    async def status(self, token: Token) -> int:
        """What it answers to the token."""
        async with plain_http() as http:
            answer = await http.get(
                self.provider.userinfo_endpoint, headers={"Authorization": token.authorization_header}
            )
        return answer.status_code

    async def call(self, token: Token) -> str:
        """Call it with a token it must accept: "200, for alice". Raises NotAsSaid."""
        async with plain_http() as http:
            answer = await http.get(
                self.provider.userinfo_endpoint, headers={"Authorization": token.authorization_header}
            )
        expect(answer.status_code == 200, f"the brand's API answered {answer.status_code}")
        return f"{answer.status_code}, for {answer.json()['sub']}"

    def issued(self, token: Token) -> LogEntry:
        """The server's log entry of when it issued the token."""
        name = sha256(token.access_token)
        found = [entry for entry in self.provider.token_requests() if entry.access_token == name]
        expect(len(found) == 1, f"the authorization server issued that token {len(found)} times")
        return found[0]

    def redemptions(self, token: Token) -> list[LogEntry]:
        """The server's answers to the refresh token that came with the token."""
        refresh_token = self.issued(token).refresh_token
        expect(refresh_token, "no refresh token came with that token")
        return [entry for entry in self.provider.token_requests() if entry.presented == refresh_token]

    def refreshes(self, token: Token) -> list[LogEntry]:
        """The server's answers to all refreshes since the login that the token comes from."""
        family = self.issued(token).family
        return self.provider.token_requests(grant_type="refresh_token", family=family)

    def is_revoked(self, token: Token) -> bool:
        """Whether the server has ended the login that the token comes from."""
        family = self.issued(token).family
        return any(e.event == "grant_revoked" and e.family == family for e in self.provider.log())


def of_the_same_authority(folder: Path, identity: str) -> CallerFiles:
    """Files of a caller that the development folder's authority knows and the configuration does not."""
    key = load_pem_private_key((folder / "ca.key.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    ca = DevelopmentCA(x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes()), key)
    return _write(folder, "unknown", ca.issue(name="unknown", uris=[identity]))


def of_another_authority(folder: Path, identity: str) -> CallerFiles:
    """Files of a caller that claims an identity, vouched for by an authority of its own."""
    return _write(folder, "stranger", DevelopmentCA.create("stranger").issue(name="bot", uris=[identity]))


def _write(folder: Path, name: str, issued: Issued) -> CallerFiles:
    files: CallerFiles = {
        "ca": folder / "ca.pem",
        "certificate": folder / f"{name}.pem",
        "private_key": folder / f"{name}.key.pem",
    }
    files["certificate"].write_bytes(issued.certificate_pem)
    files["private_key"].touch(mode=0o600)
    files["private_key"].write_bytes(issued.private_key_pem)
    return files
