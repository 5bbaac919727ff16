"""The link that goes with a token that cannot be given: what GetToken's `challenge` asks for.

A bot asks again and again while its consumer logs in, and several at once: all
get the one link that is pending, which is kept sealed for as long as that.
"""

import asyncio

from tokenvault_sidecar.core import challenges
from tokenvault_sidecar.core.challenges import DelegationRequest
from tokenvault_sidecar.core.delegations import Challenge, Delegations
from tokenvault_sidecar.core.errors import ConfirmationRequired, RateLimited
from tokenvault_sidecar.core.model import Brand, DelegationStatus
from tokenvault_sidecar.core.outcomes import KEPT
from tokenvault_sidecar.core.vault import Vault

MOST = 10
"""Links of one context that may be started within the life of one."""

GOOD = 0.5
"""How much of a link's life must be left where it is given again: the consumer has to log in yet."""


class Consent:
    """Pending challenges, each given to all who wish for the same."""

    def __init__(self, vault: Vault, delegations: Delegations) -> None:
        self._vault = vault
        self._delegations = delegations
        self._under_way: dict[bytes, asyncio.Task[Challenge]] = {}

    async def challenge(self, request: DelegationRequest) -> Challenge:
        """The pending one of the same caller, context and wish, or a new one.

        Raises as `Delegations.start` does, ConfirmationRequired where the
        consumer has followed one and was shown a code, and RateLimited.
        """
        brand = self._vault.brand(request.brand, request.context.kind)
        wish = self._vault.sealer.wish(
            brand.id,
            request.context.kind,
            request.context.id,
            request.caller,
            challenges.redirect_uri(brand, request),
            *sorted(challenges.scopes(brand, request)),
        )
        task = self._under_way.get(wish)
        if task is None:
            task = self._vault.background.spawn(self._challenge(brand, request, wish), "consent")
            self._under_way[wish] = task
            task.add_done_callback(lambda _: self._under_way.pop(wish))
        return await asyncio.shield(task)

    async def _challenge(self, brand: Brand, request: DelegationRequest, wish: bytes) -> Challenge:
        now, store = self._vault.clock(), self._vault.store
        key = self._vault.context_key(brand.id, request.context)
        soonest = now + brand.delegation_lifetime
        rows = await store.latest_outcomes(key, after=now + KEPT, limit=MOST)
        for row in rows:
            outcome = await self._vault.open_outcome(row)
            if outcome.expires_at <= now:  # a row that was written later than that
                continue
            if outcome.status is DelegationStatus.AWAITING_CONFIRMATION and outcome.caller == request.caller:
                raise ConfirmationRequired(
                    f"the consumer has logged in to brand {brand.id!r}: ask for the confirmation code they "
                    "were shown, and give it to ConfirmDelegation",
                    delegation_id=outcome.delegation_id,
                    expires_at=outcome.expires_at,
                )
            soonest = min(soonest, outcome.expires_at)
            if (
                outcome.wish == wish
                and outcome.link is not None
                and outcome.status is DelegationStatus.PENDING
                and outcome.expires_at - now >= GOOD * brand.delegation_lifetime
                and await store.get_delegation(outcome.delegation_key)  # neither used nor being used
            ):
                return Challenge(outcome.delegation_id, outcome.link, outcome.expires_at)
        if len(rows) >= MOST:
            raise RateLimited(
                f"brand {brand.id!r}: {MOST} links were started for this {request.context.kind} and have "
                "not expired yet: show the consumer the last one, or wait",
                retry_after=max(soonest - now, 1.0),
            )
        return await self._delegations.start(request, wish=wish)
