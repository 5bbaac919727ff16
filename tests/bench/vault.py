"""A vault full of fresh grants, and requests for them."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault_sidecar import devkit
from tokenvault_sidecar.adapters.keyring import open_keyring
from tokenvault_sidecar.config import Config
from tokenvault_sidecar.core import lifecycle
from tokenvault_sidecar.core.model import Context, ContextKind, Grant, Secret, Session, TokenSet
from tokenvault_sidecar.core.ports import GrantRow, Store
from tokenvault_sidecar.core.sealing import Sealer
from tokenvault_sidecar.wiring import keks, open_store

BRAND = "acme"
TOKEN_BYTES = 2048
_LIFE = 3600.0
_BATCH = 200
NOWHERE = "http://127.0.0.1:9"
_CHANGES = {
    "[server]": 'log_level = "warning"',
    # Given these, nothing is asked of the authorization server but tokens.
    f"[brands.{BRAND}]": """
authorization_endpoint = "$server/authorize"
token_endpoint = "$server/token"
jwks_uri = "$server/jwks"
""",
    # All the load is one caller's.
    "[callers.bot]": "limits = { rate = 1e6, burst = 1000000 }",
}


def configure(directory: Path, authorization_server: str = NOWHERE) -> Path:
    """Make what a sidecar needs, on a port of its own choice; its configuration."""
    *_, path = devkit.init(
        directory,
        devkit.Development(
            brand=BRAND, listen=("127.0.0.1:0",), ops_listen="127.0.0.1:0", callback_listen="127.0.0.1:0"
        ),
    )
    text = path.read_text()
    for table, keys in _CHANGES.items():
        assert f"{table}\n" in text
        text = text.replace(f"{table}\n", f"{table}\n{keys}\n")
    # Probes and metrics are off, but where what they cost is measured.
    text = text.replace('[ops]\nlisten = "127.0.0.1:0"\n', "")
    text = text.replace('[callback]\nlisten = "127.0.0.1:0"\n', "")
    assert "[ops]" not in text
    assert "[callback]" not in text
    path.write_text(text.replace("$server", authorization_server))
    return path


@asynccontextmanager
async def opened(config: Config) -> AsyncIterator[tuple[Store, Sealer]]:
    """Its store, made where it is missing, and what seals for it."""
    store = await open_store(config)
    try:
        yield store, Sealer(await open_keyring(store, keks(config)[0], time.time()))
    finally:
        await store.close()


async def fill(
    config: Config, grants: int, *, first: int = 0, progress: Callable[[int], None] = lambda more: None
) -> None:
    """Store this many consumers' grants, sealed, their tokens fresh for an hour."""
    now = time.time()
    async with opened(config) as (store, sealer):
        end = first + grants
        for start in range(first, end, _BATCH):
            rows = [row(sealer, number, now) for number in range(start, min(start + _BATCH, end))]
            added = await asyncio.gather(*(store.put_grant(new, replaces=None) for new in rows))
            assert all(added)
            progress(len(rows))


def request(number: int) -> bytes:
    """A GetToken request for one of them."""
    context = pb.Context(consumer=pb.ConsumerContext(consumer_id=_consumer(number)))
    return pb.GetTokenRequest(brand_id=BRAND, context=context).SerializeToString()


def row(sealer: Sealer, number: int, now: float) -> GrantRow:
    """One of them as it is stored, its token issued `now`."""
    grant = Grant(
        brand=BRAND,
        kind=ContextKind.CONSUMER,
        family=secrets.token_urlsafe(16),
        tokens=TokenSet(
            version=secrets.token_urlsafe(16),
            access_token=Secret(secrets.token_urlsafe(TOKEN_BYTES)[:TOKEN_BYTES]),
            token_type="Bearer",
            scopes=("openid", "offline_access"),
            issued_at=now,
            expires_at=now + _LIFE,
            refresh_token=Secret(secrets.token_urlsafe(32)),
        ),
        subject=f"subject-{number}",
        session=Session(absolute_end=now + 12 * _LIFE, idle=12 * _LIFE, last_used_at=now),
    )
    key = sealer.context_key(BRAND, Context(ContextKind.CONSUMER, _consumer(number)))
    return GrantRow(
        key=key,
        brand=BRAND,
        kind=grant.kind,
        version=grant.tokens.version,
        sealed=sealer.seal_grant(key, grant),
        purge_at=lifecycle.purge_at(grant),
        renew_at=lifecycle.renew_at(grant, margin=60.0, jitter=0.0),
    )


def _consumer(number: int) -> str:
    return f"consumer-{number:08}"
