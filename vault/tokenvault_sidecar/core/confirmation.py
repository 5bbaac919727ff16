"""Against consent phishing: a grant is locked until its consumer brings a code to the conversation.

Whoever opens a challenge's link logs in, and the link may have been sent on:
the code is shown where the login ended, and asked for where it was begun. Until
it is brought the tokens are in the delegation's row, sealed, where no read
looks; and they wait for their revocation from the start, at the time by which
the code must be there. Bringing it takes them off that queue, so whatever dies
in between, and whatever voids the delegation, they end revoked or kept.
"""

import asyncio
import hmac
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from tokenvault_sidecar.core.errors import (
    ConfirmationCodeWrong,
    Reason,
    StateNotFound,
    SubjectMismatch,
    VaultError,
)
from tokenvault_sidecar.core.keeping import Keeping, delegated, state_not_found, used
from tokenvault_sidecar.core.model import (
    Brand,
    Confirmation,
    Context,
    Delegated,
    Delegation,
    DelegationStatus,
    Grant,
    Held,
    Outcome,
    Secret,
)
from tokenvault_sidecar.core.outcomes import Outcomes
from tokenvault_sidecar.core.ports import Completion, DelegationRow, OutcomeRow
from tokenvault_sidecar.core.revocation import Revoker
from tokenvault_sidecar.core.vault import Vault

DIGITS: Final = 8
"""Of a code: every keyboard has them, in every language."""

TRIES: Final = 5
"""Wrong codes until the delegation is void: a guesser is right once in 20 million logins."""

_HELD: Final = (DelegationStatus.AWAITING_CONFIRMATION, DelegationStatus.COMPLETED)


class Confirmations:
    """Grants under lock, from the consumer's login to the code they bring."""

    def __init__(self, vault: Vault, revoker: Revoker, keeping: Keeping, outcomes: Outcomes) -> None:
        self._vault = vault
        self._revoker = revoker
        self._keeping = keeping
        self._outcomes = outcomes

    async def hold(
        self, key: bytes, delegation: Delegation, grant: Grant, brand: Brand, response: bytes
    ) -> None:
        """Lock the grant that this taken delegation, of row key `key`, has led to. Safe to repeat.

        `response` is the hash of what the consumer came back with: by it the code is known again.
        `brand` is as it was when that began: it may be gone by now.

        Raises StateNotFound where the delegation was voided meanwhile,
        SubjectMismatch, StoreUnavailable.
        """
        until = self._vault.clock() + brand.delegation_lifetime
        outcome = self._outcomes.awaiting(key, delegation, response, until=until)
        while True:
            row = await self._vault.store.get_taken(key)
            before = await self._outcomes.get(delegation.id)  # after the row, which is changed with it
            if before is not None and before.status in _HELD:  # by a try that was not told so
                return
            if row is None:
                raise state_not_found()
            await self._keeping.check_subject(delegation.context, grant)
            revocations = self._revoker.rows(grant, due_at=until)
            held = Held(
                grant=grant,
                code=self._hash(delegation.id, self._code(response)),
                revocations=tuple(revocation.id for revocation in revocations),
            )
            locked = self._vault.sealer.seal_held(replace(row, expires_at=until), held)
            if await self._vault.store.change_taken(
                locked, was=row.sealed, outcome=outcome, revocations=revocations
            ):
                self._vault.events("confirmation", brand=grant.brand, outcome="shown")
                return

    async def show(self, outcome: Outcome, response: bytes, told: OutcomeRow) -> Delegated:
        """The code, once, for who has shown the response of this hash; `told` notes it.

        Raises StateNotFound, StoreUnavailable.
        """
        code = self._code(response)
        if outcome.expires_at <= self._vault.clock():
            raise state_not_found()
        while taken := await self._vault.store.get_taken(outcome.delegation_key):
            held = await self._vault.open_held(taken)
            if not hmac.compare_digest(held.code, self._hash(outcome.delegation_id, code)):
                break
            latest = await self._outcomes.get(outcome.delegation_id)
            if latest is None or latest.untold != response:  # another was told meanwhile
                break
            if await self._vault.store.change_taken(
                self._vault.sealer.seal_held(taken, held), was=taken.sealed, outcome=told
            ):
                confirmation = Confirmation(code, outcome.expires_at)
                return replace(delegated(outcome.context, held.grant), confirmation=confirmation)
        raise state_not_found()

    async def let_again(self, delegation_id: str, response: bytes, told: bytes | None) -> None:
        """Have what came of it told once more to who shows the response of this hash.

        Only while its row is sealed as `told`: not where that was never noted, or it was told since, or
        has gone on. Raises StoreUnavailable.
        """
        key = self._vault.sealer.outcome_key(delegation_id)
        while (row := await self._vault.store.get_outcome(key)) and row.sealed == told:
            outcome = await self._vault.open_outcome(row)
            again = self._outcomes.untold(outcome, response)
            if outcome.status is not DelegationStatus.AWAITING_CONFIRMATION:
                await self._vault.store.set_outcome(again)
                return
            taken = await self._vault.store.get_taken(outcome.delegation_key)
            if taken is None:  # it goes on just now, or is purged
                return
            held = self._vault.sealer.seal_held(taken, await self._vault.open_held(taken))
            if await self._vault.store.change_taken(held, was=taken.sealed, outcome=again):
                return

    async def confirm(
        self, delegation_id: str, code: Secret, *, caller: str, permit: Callable[[str, Context], None]
    ) -> Delegated:
        """Unlock the grant by the code that was shown. A caller that goes away leaves it to go on.

        `code` is as `read_code` gave it. `permit` is asked with the
        delegation's brand and context, and raises PolicyDenied. Raises
        ConfirmationCodeWrong, StateNotFound, SubjectMismatch, StoreUnavailable.
        Safe to repeat.
        """

        def check(outcome: Outcome) -> None:
            if outcome.caller != caller:
                raise _not_waiting()
            permit(outcome.brand, outcome.context)

        work = self._confirm(delegation_id, self._hash(delegation_id, code), check)
        return await asyncio.shield(self._vault.background.spawn(work, "confirmation"))

    async def _confirm(self, delegation_id: str, code: bytes, check: Callable[[Outcome], None]) -> Delegated:
        """Each try is decided by a write that only one who saw the same row can make: none is for nothing."""
        while True:
            row = await self._vault.store.get_outcome(self._vault.sealer.outcome_key(delegation_id))
            if row is None:
                raise _not_waiting()
            outcome = await self._vault.open_outcome(row)
            check(outcome)
            if outcome.delegated is not None:  # confirmed already
                return outcome.delegated
            if outcome.reason is Reason.CONFIRMATION_CODE_WRONG:
                raise _wrong(outcome.brand, 0)
            if not self._waits(outcome):
                raise _not_waiting()
            taken = await self._vault.store.get_taken(outcome.delegation_key)
            held = await self._vault.open_held(taken) if taken else None
            if held and taken:
                if hmac.compare_digest(held.code, code):
                    done = await self._unlock(outcome, taken, held)
                else:
                    await self._refuse(outcome, taken, held, code)
                    done = None
                if done:
                    return done
            if await self._vault.store.get_taken(outcome.delegation_key) == taken and (
                await self._vault.store.get_outcome(row.key) == row
            ):
                raise _not_waiting()  # its time is up: it was purged, or is being revoked

    async def _unlock(self, outcome: Outcome, taken: DelegationRow, held: Held) -> Delegated | None:
        """None: the row is not as it was, or its tokens are being revoked."""
        grant = used(held.grant, self._vault.clock())
        done = delegated(outcome.context, grant)
        row = self._outcomes.ended(outcome, DelegationStatus.COMPLETED, delegated=done)
        completion = Completion(taken.key, row, taken.sealed, held.revocations)
        try:
            if not await self._keeping.keep(outcome.context, grant, completion):
                return None
        except SubjectMismatch as error:
            if not await self._void(outcome, taken, held, error):
                return None
            raise
        self._outcomes.wake(outcome.delegation_id)
        self._vault.events("confirmation", brand=outcome.brand, outcome="confirmed")
        self._vault.events("delegation", brand=outcome.brand, outcome="completed")
        return done

    async def _refuse(self, outcome: Outcome, taken: DelegationRow, held: Held, code: bytes) -> None:
        """Count the wrong code, unless it was tried before. Returns where the row is not as it was."""
        if any(hmac.compare_digest(code, tried) for tried in held.tried):
            raise _wrong(outcome.brand, TRIES - len(held.tried))
        held = replace(held, tried=(*held.tried, code))
        error = _wrong(outcome.brand, TRIES - len(held.tried))
        if error.tries_left == 0:
            counted = await self._void(outcome, taken, held, error)
        else:
            counted = await self._vault.store.change_taken(
                self._vault.sealer.seal_held(taken, held), was=taken.sealed
            )
        if counted:
            self._vault.events("confirmation", brand=outcome.brand, outcome="wrong")
            raise error

    async def _void(self, outcome: Outcome, taken: DelegationRow, held: Held, error: VaultError) -> bool:
        """End the delegation, and have its tokens revoked now. False: the row is not as it was."""
        row = self._outcomes.ended(outcome, DelegationStatus.FAILED, reason=error.reason)
        if not await self._vault.store.end_taken(taken, outcome=row):
            return False
        self._outcomes.wake(outcome.delegation_id)
        self._vault.events("delegation", brand=outcome.brand, outcome=error.reason.value.lower())
        await self._revoker.hurry(held.revocations)
        return True

    def _waits(self, outcome: Outcome) -> bool:
        return (
            outcome.status is DelegationStatus.AWAITING_CONFIRMATION
            and self._vault.clock() < outcome.expires_at
            and outcome.brand in self._vault.brands
        )

    def _code(self, response: bytes) -> Secret:
        """Not by chance: whichever sidecar is shown the response once more finds it again."""
        return self._vault.sealer.shown_code(response, digits=DIGITS)

    def _hash(self, delegation_id: str, code: Secret) -> bytes:
        return self._vault.sealer.code_hash(delegation_id, code)


def read_code(typed: str) -> Secret | None:
    """The code in what somebody typed, or None: its digits, of any script, between spaces and punctuation."""
    digits = []
    for character in typed:
        digit = unicodedata.decimal(character, None)
        if digit is not None:
            digits.append(str(digit))
        elif unicodedata.category(character)[0] not in "ZPC":  # separators, punctuation, direction marks
            return None
    return Secret("".join(digits)) if len(digits) == DIGITS else None


def _not_waiting() -> StateNotFound:
    return StateNotFound(
        "the delegation is unknown, ended, another caller's, or waits for no confirmation code"
    )


def _wrong(brand: str, tries_left: int) -> ConfirmationCodeWrong:
    left = f"{tries_left} more may be tried" if tries_left else "it was the last try: start a new delegation"
    return ConfirmationCodeWrong(
        f"brand {brand!r}: this is not the confirmation code that was shown; {left}", tries_left=tries_left
    )
