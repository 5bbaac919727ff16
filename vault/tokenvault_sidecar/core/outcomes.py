"""What became of a delegation, for the caller that started it: the use-case WatchDelegation.

An outcome is a row beside the delegation's, and stays when that is used up.
Whoever completes a delegation may be another process on the same store, so
who watches looks at the row; in this process it is woken besides.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import replace

from tokenvault_sidecar.core.errors import (
    AuthorizationDenied,
    Reason,
    StateNotFound,
    StoreUnavailable,
    VaultError,
)
from tokenvault_sidecar.core.model import (
    Context,
    Delegated,
    Delegation,
    DelegationStatus,
    Outcome,
    Secret,
)
from tokenvault_sidecar.core.ports import OutcomeRow
from tokenvault_sidecar.core.vault import Vault

LOOK = 0.25
"""Seconds between two looks at a row that is watched."""

LOOKS = 800
"""Looks a second by all who watch, about, at most: where many do, each looks more rarely, lest calls wait."""

KEPT = 3600.0
"""Seconds beyond the link's end, or the outcome's where that is later, for which it is known."""

FINISHING = 60.0
"""Seconds beyond the link's end for which who watches waits for one that was taken before."""

UNFINISHED = 86400.0
"""Seconds beyond the link's end for which one that was taken may complete: its tokens wait for the store."""

STORING = 5.0
"""Seconds beyond the confirmation code's end for which one that was brought before may still be stored."""


class Outcomes:
    """The outcomes of delegations, and those who wait for them."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._waiting: dict[bytes, set[asyncio.Event]] = {}
        self._closed = False

    def pending(
        self, key: bytes, delegation: Delegation, *, link: Secret | None = None, wish: bytes | None = None
    ) -> OutcomeRow:
        """The row of a delegation that has begun; `key` is the delegation's own row key.

        With `link` it may be given again, to who has this `wish`.
        """
        return self._row(replace(_outcome(key, delegation), link=link, wish=wish))

    def completed(
        self, key: bytes, delegation: Delegation, delegated: Delegated, response: bytes
    ) -> OutcomeRow:
        """The row of one that succeeded, to be written with the grant; then `wake`.

        Who shows the response of this hash is told, once.
        """
        outcome = replace(_outcome(key, delegation), untold=response)
        return self._row(replace(outcome, status=DelegationStatus.COMPLETED, delegated=delegated))

    def awaiting(self, key: bytes, delegation: Delegation, response: bytes, *, until: float) -> OutcomeRow:
        """The row of one whose consumer is shown a code, to be brought `until` then; `response` as above."""
        status = DelegationStatus.AWAITING_CONFIRMATION
        return self._row(replace(_outcome(key, delegation), status=status, expires_at=until, untold=response))

    def told(self, outcome: Outcome) -> OutcomeRow:
        """The row of one that is told to who has shown its response: then that is used up."""
        return self._row(replace(outcome, untold=None))

    def untold(self, outcome: Outcome, response: bytes) -> OutcomeRow:
        """The row of one that is told once more to who shows the response of this hash."""
        return self._row(replace(outcome, untold=response))

    async def get(self, delegation_id: str) -> Outcome | None:
        """What is known of it. Raises StoreUnavailable."""
        row = await self._vault.store.get_outcome(self._vault.sealer.outcome_key(delegation_id))
        return await self._vault.open_outcome(row) if row else None

    def ended(
        self,
        outcome: Outcome,
        status: DelegationStatus,
        *,
        reason: Reason | None = None,
        delegated: Delegated | None = None,
    ) -> OutcomeRow:
        """The row of one that has ended so since."""
        return self._row(replace(outcome, status=status, reason=reason, delegated=delegated))

    async def failed(self, key: bytes, delegation: Delegation, error: VaultError) -> None:
        """Note that it came to nothing, and end the taken row; where the store is away, once it is back."""
        denied = isinstance(error, AuthorizationDenied)
        status = DelegationStatus.DENIED if denied else DelegationStatus.FAILED
        outcome = replace(_outcome(key, delegation), status=status, reason=error.reason)

        async def end() -> None:
            row = self._row(outcome)
            while taken := await self._vault.store.get_taken(key):
                if await self._vault.store.end_taken(taken, outcome=row):
                    break
            self.wake(delegation.id)

        await self._vault.write_soon(end, event="outcome_unsaved", brand=delegation.brand)

    def wake(self, delegation_id: str) -> None:
        """Have those who watch it look at once."""
        for woken in self._waiting.get(self._vault.sealer.outcome_key(delegation_id), ()):
            woken.set()

    def close(self) -> None:
        """End all watching: this process stops."""
        self._closed = True
        for waiting in self._waiting.values():
            for woken in waiting:
                woken.set()

    async def watch(
        self, delegation_id: str, *, caller: str, permit: Callable[[str, Context], None]
    ) -> AsyncGenerator[Outcome, None]:
        """How it stands, then, where that is not final, what it comes to in between, and how it ends.

        `permit` is asked with the delegation's brand and context, and raises
        PolicyDenied. Raises StateNotFound, and StoreUnavailable: then watch again.
        """
        key = self._vault.sealer.outcome_key(delegation_id)
        row = await self._vault.store.get_outcome(key)
        outcome = await self._vault.open_outcome(row) if row else None
        if outcome is None or outcome.caller != caller:
            raise StateNotFound("the delegation is unknown, purged, or another caller's: start a new one")
        permit(outcome.brand, outcome.context)
        outcome = await self._at_present(outcome)
        yield outcome
        if outcome.status.is_final:
            return
        told, woken = outcome.status, asyncio.Event()
        self._waiting.setdefault(key, set()).add(woken)
        try:
            while not outcome.status.is_final:
                if self._closed:
                    raise StoreUnavailable("the sidecar is stopping: watch again", retry_after=1.0)
                found = await self._vault.store.get_outcome(key)
                if found is None:  # the context was invalidated, and the delegation with it
                    void = DelegationStatus.FAILED
                    outcome = replace(outcome, status=void, reason=Reason.STATE_NOT_FOUND)
                elif row is None or found.sealed != row.sealed:
                    row, outcome = found, await self._vault.open_outcome(found)
                outcome = await self._at_present(outcome)
                if outcome.status is not told:
                    told = outcome.status
                    yield outcome
                elif not outcome.status.is_final:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self._pause()):
                            await woken.wait()
                    woken.clear()
        finally:
            self._waiting[key].discard(woken)
            if not self._waiting[key]:
                del self._waiting[key]

    def _pause(self) -> float:
        """Until the next look; spread, so that they do not look all at once."""
        return max(LOOK, len(self._waiting) / LOOKS) * (0.5 + self._vault.jitter())

    async def _at_present(self, outcome: Outcome) -> Outcome:
        """EXPIRED where nobody came back, or brought the code, in time: that is in no row."""
        late = self._vault.clock() - outcome.expires_at
        if outcome.status.is_final or late < 0:
            return outcome
        finishing = FINISHING if outcome.status is DelegationStatus.PENDING else STORING
        if late < finishing and await self._vault.store.get_taken(outcome.delegation_key):
            return outcome
        latest = await self.get(outcome.delegation_id) or outcome  # it may just have gone on
        if latest.status is not outcome.status:
            return await self._at_present(latest)
        return replace(outcome, status=DelegationStatus.EXPIRED)

    def _row(self, outcome: Outcome) -> OutcomeRow:
        until = max(outcome.expires_at, self._vault.clock())  # it may have waited for the store for longer
        return self._vault.sealer.seal_outcome(outcome, purge_at=until + KEPT)


def _outcome(key: bytes, delegation: Delegation) -> Outcome:
    return Outcome(
        delegation_id=delegation.id,
        delegation_key=key,
        brand=delegation.brand,
        context=delegation.context,
        caller=delegation.caller,
        expires_at=delegation.expires_at,
    )
