"""What operators do with grants: look at them, and end them. They see no token, no subject and no id."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from tokenvault_sidecar.core.errors import StoreUnavailable
from tokenvault_sidecar.core.model import Context, ContextKind, Grant
from tokenvault_sidecar.core.ports import Attempt, GrantRow
from tokenvault_sidecar.core.revocation import Revoker
from tokenvault_sidecar.core.vault import Vault

PAGE = 200
"""Rows read in one go."""


@dataclass(frozen=True, slots=True)
class GrantFacts:
    """What may be told of a grant. `key` is its blind row key, in hex, as in the audit log.

    `issued_at`: when its token set was; `ends_at`: when it is over whatever its
    token says, a consumer's session for one; `renews`: a refresh token is held.
    What is sealed is None where it does not open, which is then not `readable`.
    """

    key: str
    brand: str
    kind: ContextKind
    version: str
    attempt: Attempt
    renew_at: float | None
    readable: bool = False
    renews: bool = False
    issued_at: float | None = None
    expires_at: float | None = None
    ends_at: float | None = None
    scopes: tuple[str, ...] = ()


class Administration:
    """Works on the store beside whoever serves it."""

    def __init__(self, vault: Vault, revoker: Revoker) -> None:
        self._vault = vault
        self._revoker = revoker

    async def grants(self, brand: str | None = None) -> AsyncIterator[GrantFacts]:
        """All grants, or the brand's, in the order of their keys; read a page at a time."""
        async for page in self._pages(brand):
            for row in page:
                yield await self._facts(row)

    async def grant(self, brand: str, context: Context) -> GrantFacts | None:
        """The context's grant, or None."""
        row = await self._vault.store.get_grant(self._vault.context_key(brand, context))
        return await self._facts(row) if row else None

    async def invalidate(self, brand: str, context: Context) -> bool:
        """Forget the context, as Invalidate does, whether its brand is configured or not; False: no grant."""
        return await self._revoker.forget_context(self._vault.context_key(brand, context))

    async def invalidate_all(self, brand: str) -> int:
        """Forget every context of the brand; how many had a grant. What is delegated meanwhile may stay."""
        await self._vault.store.void_delegations(brand=brand)
        forgotten = 0
        async for page in self._pages(brand):
            # Together, so that they share commits.
            forgotten += sum(await asyncio.gather(*(self._revoker.forget_context(row.key) for row in page)))
        return forgotten

    async def _pages(self, brand: str | None) -> AsyncIterator[list[GrantRow]]:
        last = b""
        while page := list(await self._vault.store.grants_after(last, brand=brand, limit=PAGE)):
            yield page
            last = page[-1].key

    async def _facts(self, row: GrantRow) -> GrantFacts:
        try:
            return _facts(row, await self._vault.open_grant(row))
        except StoreUnavailable:
            return _facts(row, None)


def _facts(row: GrantRow, grant: Grant | None) -> GrantFacts:
    facts = GrantFacts(row.key.hex(), row.brand, row.kind, row.version, row.attempt, row.renew_at)
    if grant is None:
        return facts
    return replace(
        facts,
        readable=True,
        renews=grant.tokens.refresh_token is not None,
        issued_at=grant.tokens.issued_at,
        expires_at=grant.tokens.expires_at,
        ends_at=grant.life_ends_at,
        scopes=grant.tokens.scopes,
    )
