"""Sidecar processes for these tests, their configuration, and callers connected to them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from tests.authserver import clients
from tests.authserver.clients import Registration
from tests.authserver.oidc import OidcProvider
from tests.authserver.proxy import FaultProxy
from tests.renewal.seeding import BRAND
from tests.running import SidecarProcess, caller_files
from tokenvault import Token
from tokenvault.aio import AsyncTokenVaultClient
from tokenvault_sidecar.adapters.oauth import OAuthServer, ServerSettings
from tokenvault_sidecar.config import to_toml
from tokenvault_sidecar.core.model import Secret


class Endpoints(TypedDict):
    """Keys of a brand's table, and fields of ServerSettings."""

    authorization_endpoint: str
    token_endpoint: str
    revocation_endpoint: str
    jwks_uri: str


CALL_SECONDS = 60.0
"""Nothing takes as long: a call that does hangs."""


@dataclass(frozen=True, slots=True)
class Running:
    """A sidecar process; `bot` keeps sessions alive by its reads, `service` does not."""

    process: SidecarProcess
    bot: AsyncTokenVaultClient
    service: AsyncTokenVaultClient


@asynccontextmanager
async def running(config: Path) -> AsyncIterator[Running]:
    """One sidecar."""
    async with several(config, 1) as (sidecar,):
        yield sidecar


@asynccontextmanager
async def several(config: Path, count: int) -> AsyncIterator[list[Running]]:
    """`count` sidecars with one configuration, and so on one store.

    Started and stopped in threads: a proxy in this loop has to go on answering them.
    """
    processes = []
    for number in range(count):
        logs = config.parent / f"logs-{number}"
        logs.mkdir(exist_ok=True)
        processes.append(SidecarProcess(config, logs=logs))
    try:
        await asyncio.gather(*(asyncio.to_thread(process.start) for process in processes))
        async with AsyncExitStack() as callers:
            yield [
                Running(
                    process,
                    await callers.enter_async_context(_client(process, "bot")),
                    await callers.enter_async_context(_client(process, "brand-service")),
                )
                for process in processes
            ]
    finally:
        alive = [process for process in processes if process.addresses and process.returncode is None]
        await asyncio.gather(*(asyncio.to_thread(process.stop) for process in alive))


def tune(config: Path, table: str, **values: str | int | list[str]) -> None:
    """Set keys of a table of the configuration; the table is added where it is missing."""
    head, text = f"[{table}]", config.read_text()
    if head not in text.splitlines():
        text += f"\n{head}\n"
    before, _, rest = text.partition(f"{head}\n")
    inside, bracket, after = rest.partition("\n[")
    lines = [line for line in inside.splitlines() if line.partition(" =")[0] not in values]
    lines += [f"{key} = {to_toml(value)}" for key, value in values.items()]
    config.write_text("\n".join([f"{before}{head}", *lines, ""]) + bracket + after)


def add_brand(
    config: Path, name: str, provider: OidcProvider, registration: Registration, proxy: FaultProxy
) -> None:
    """A further brand of the same client, with a proxy of its own before its server."""
    table = f"brands.{name}"
    tune(
        config,
        table,
        issuer=provider.issuer,
        **endpoints(provider, proxy),
        client_id=registration.client_id,
        client_auth=registration.auth_method,
        client_secret_file="client-secret",
        redirect_uris=list(registration.redirect_uris),
    )
    tune(config, f"{table}.consumer", scopes=["openid", "offline_access"])


def endpoints(provider: OidcProvider, proxy: FaultProxy) -> Endpoints:
    """What changes or ends tokens goes through the proxy, logins do not."""
    return {
        "authorization_endpoint": provider.authorization_endpoint,
        "token_endpoint": f"{proxy.url}/token",
        "revocation_endpoint": f"{proxy.url}/token/revocation",
        "jwks_uri": provider.jwks_uri,
    }


def server_of(provider: OidcProvider, proxy: FaultProxy, *, deadline: float) -> OAuthServer:
    """The same for a core in this process: the brand's server, as the adapter sees it."""
    settings = ServerSettings(
        issuer=provider.issuer,
        client_id=clients.BASIC.client_id,
        client_secret=Secret(clients.BASIC.secret or ""),
        **endpoints(provider, proxy),
        development=True,
        deadline=deadline,
    )
    return OAuthServer(settings, brand=BRAND)


async def another_version(client: AsyncTokenVaultClient, brand: str, consumer: str, than: str) -> Token:
    """Read until there is a newer token. Raises TimeoutError, or what a read fails with."""
    async with asyncio.timeout(CALL_SECONDS):
        while True:
            token = await client.get_token(brand, consumer=consumer)
            if token.token_version != than:
                return token
            await asyncio.sleep(0.02)


def _client(process: SidecarProcess, caller: str) -> AsyncTokenVaultClient:
    return AsyncTokenVaultClient(
        process.address, **caller_files(process.folder, caller), timeout=CALL_SECONDS
    )
