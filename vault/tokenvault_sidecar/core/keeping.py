"""Keeping what a delegation left: its grant, in place of the context's former one."""

import hmac
from dataclasses import dataclass, replace

from tokenvault_sidecar.core.errors import StateNotFound, SubjectMismatch
from tokenvault_sidecar.core.model import Context, Delegated, Grant, Outcome
from tokenvault_sidecar.core.ports import Completion, GrantRow
from tokenvault_sidecar.core.vault import Vault


@dataclass(slots=True)
class Shown:
    """An authorization response that somebody shows, by its hash. `unanswered`: they have gone away."""

    response: bytes
    unanswered: bool = False

    def led_to(self, outcome: Outcome) -> bool:
        """Whether this came of it, and nobody was told."""
        return hmac.compare_digest(outcome.untold or b"", self.response)


class Keeping:
    """Writes grants that delegations leave."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    async def keep(self, context: Context, grant: Grant, completes: Completion) -> bool:
        """Store the grant in place of the context's former one, of the same person only.

        The row key is made of what was sealed, not of a column. False: the
        delegation is not to be completed any more, as after its context was
        invalidated. Raises SubjectMismatch, StoreUnavailable.
        """
        key = self._vault.context_key(grant.brand, context)
        new = self._vault.row(key, grant)
        tried: str | object | None = object()
        while True:
            former = await self._former(key, grant)
            if former and former[1].family == grant.family:  # written before, by a try that was not told so
                return True
            replaces = former[0].version if former else None
            if replaces == tried:  # so it was not for the grant's sake
                return False
            if await self._vault.store.put_grant(new, replaces=replaces, completes=completes):
                return True
            tried = replaces

    async def check_subject(self, context: Context, grant: Grant) -> None:
        """Raises SubjectMismatch where the grant could not be kept."""
        await self._former(self._vault.context_key(grant.brand, context), grant)

    async def _former(self, key: bytes, grant: Grant) -> tuple[GrantRow, Grant] | None:
        """What the grant would replace. Raises SubjectMismatch where that is another person's."""
        stored = await self._vault.grant(key)
        if stored and stored[1].subject not in (None, grant.subject):
            raise SubjectMismatch(
                f"another subject of brand {grant.brand!r} logged in than the consumer's grant is for: "
                "nothing was stored; Invalidate the consumer first if the change is meant"
            )
        return stored


def used(grant: Grant, now: float) -> Grant:
    """The grant, whose consumer is there now: it may have waited since the login."""
    return replace(grant, session=replace(grant.session, last_used_at=now)) if grant.session else grant


def delegated(context: Context, grant: Grant) -> Delegated:
    """What is told of the grant."""
    return Delegated(
        brand=grant.brand,
        context=context,
        scopes=grant.tokens.scopes,
        subject=grant.subject,
        access_token_expires_at=grant.tokens.expires_at,
        session_ends_at=grant.session.ends_at if grant.session else None,
    )


def state_not_found() -> StateNotFound:
    """The delegation is not there for who asks; why is not told."""
    return StateNotFound("the state is unknown, used, expired, or another caller's: start a new delegation")
