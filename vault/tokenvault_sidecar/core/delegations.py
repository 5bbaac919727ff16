"""Challenging a consumer: the use-cases StartDelegation and CompleteDelegation."""

import asyncio
import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from tokenvault_sidecar.core import challenges
from tokenvault_sidecar.core.challenges import DelegationRequest
from tokenvault_sidecar.core.confirmation import Confirmations
from tokenvault_sidecar.core.errors import DelegationFailed, ServerUnavailable, StoreUnavailable, VaultError
from tokenvault_sidecar.core.exchange import AuthorizationResponse, CodeUnused, Exchange, logs_in
from tokenvault_sidecar.core.keeping import Keeping, Shown, delegated, state_not_found, used
from tokenvault_sidecar.core.model import (
    Brand,
    Context,
    Delegated,
    Delegation,
    DelegationStatus,
    Grant,
    Outcome,
    Secret,
)
from tokenvault_sidecar.core.outcomes import Outcomes
from tokenvault_sidecar.core.ports import AuthorizationRequest, Completion
from tokenvault_sidecar.core.revocation import Revoker
from tokenvault_sidecar.core.vault import UNSAVED, Vault

PATIENCE = 4.0
"""Seconds for which a caller waits while the store does not take what was answered."""

Check = Callable[[Delegation | Outcome], None]
"""Raises where a delegation is not this caller's to complete."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """A link for the consumer's browser. It holds the state, so it is a secret of theirs."""

    delegation_id: str
    authorization_url: Secret
    expires_at: float


class Delegations:
    """Pending challenges, from their start to the grant they leave."""

    def __init__(self, vault: Vault, revoker: Revoker) -> None:
        self._vault = vault
        self._revoker = revoker
        self._exchange = Exchange(vault, revoker)
        self.outcomes = Outcomes(vault)
        self._keeping = Keeping(vault)
        self.confirmations = Confirmations(vault, revoker, self._keeping, self.outcomes)

    async def start(self, request: DelegationRequest, *, wish: bytes | None = None) -> Challenge:
        """A new challenge. With `wish` its link is kept, to be given again to who has the same.

        Raises InvalidRequest, ServerUnavailable, ServerMisconfigured, StoreUnavailable.
        """
        brand = self._vault.brand(request.brand, request.context.kind)
        state = Secret(self._vault.new_secret())
        delegation = Delegation(
            id=self._vault.sealer.delegation_id(state),
            brand=brand.id,
            context=request.context,
            caller=request.caller,
            redirect_uri=challenges.redirect_uri(brand, request),
            scopes=challenges.scopes(brand, request),
            nonce=Secret(self._vault.new_secret()),
            code_verifier=Secret(self._vault.new_secret()),
            expires_at=self._vault.clock() + brand.delegation_lifetime,
            expected_subject=request.expected_subject,
        )
        authorization = AuthorizationRequest(
            redirect_uri=delegation.redirect_uri,
            scopes=delegation.scopes,
            state=state,
            nonce=delegation.nonce,
            code_challenge=code_challenge(delegation.code_verifier),
            parameters=challenges.parameters(brand, request),
        )
        server = self._vault.servers[brand.id]
        await server.prepare()
        url = Secret(await server.authorization_url(authorization))
        row = self._vault.sealer.seal_delegation(state, delegation)
        kept = url if wish else None
        outcome = self.outcomes.pending(row.key, delegation, link=kept, wish=wish)
        await self._vault.store.put_delegation(row, outcome)
        return Challenge(delegation.id, url, delegation.expires_at)

    async def complete(
        self,
        response: AuthorizationResponse,
        *,
        caller: str,
        permit: Callable[[str, Context], None],
    ) -> Delegated:
        """Use up the state, exchange the code, keep the tokens: where the brand's consumers confirm, locked.

        A caller that goes away leaves it to go on.

        `permit` is asked with the delegation's brand and context, and raises
        PolicyDenied. Raises DelegationFailed in all its kinds,
        ServerMisconfigured: then nothing is stored. After ServerUnavailable,
        StoreUnavailable, or none of these, the same response may be shown
        again, but where an answer was lost: what was answered is kept until
        the store takes it, and is told then, without a further request.
        """

        def check(delegation: Delegation | Outcome) -> None:
            if delegation.caller != caller:
                raise state_not_found()
            permit(delegation.brand, delegation.context)

        return await self._go_on(response, check)

    async def returned(
        self,
        response: AuthorizationResponse,
        *,
        brand: str,
        permit: Callable[[Delegation | Outcome], None],
    ) -> Delegated:
        """As `complete`, for a consumer who came back to the sidecar itself.

        The state is the proof, and acts in the name of the caller that
        started the delegation; it must be of this brand. `permit` raises
        UnknownCaller and PolicyDenied where that caller may not do so now.
        """

        def check(delegation: Delegation | Outcome) -> None:
            if delegation.brand != brand:
                raise state_not_found()
            permit(delegation)

        return await self._go_on(response, check)

    async def _go_on(self, response: AuthorizationResponse, check: Check) -> Delegated:
        """Complete it, whether or not who asked for it stays."""
        shown = Shown(self._hash(response))
        task = self._vault.background.spawn(self._complete(response, check, shown), "delegation")

        def done(task: asyncio.Task[Delegated]) -> None:
            if not task.cancelled() and task.exception() is None:
                self.not_heard(response, task.result())

        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            shown.unanswered = True
            task.add_done_callback(done)
            raise

    def not_heard(self, response: AuthorizationResponse, done: Delegated) -> None:
        """What came of this response did not reach who showed it: it is told once more."""
        delegation_id = self._vault.sealer.delegation_id(response.state)
        self._let_again(delegation_id, self._hash(response), done.told, done.brand)

    def _let_again(self, delegation_id: str, response: bytes, told: bytes | None, brand: str) -> None:
        write = partial(self.confirmations.let_again, delegation_id, response, told)
        work = self._vault.insist(write, event="outcome_unsaved", brand=brand)
        self._vault.background.spawn(work, "delegation")

    def _hash(self, response: AuthorizationResponse) -> bytes:
        return self._vault.sealer.response_hash(response.state, response.code or Secret(""))

    async def _complete(self, response: AuthorizationResponse, check: Check, shown: Shown) -> Delegated:
        row = await self._vault.store.get_delegation(self._vault.sealer.state_key(response.state))
        if row is None:
            return await self._again(response, check, shown)
        delegation = await self._vault.open_delegation(row)
        brand = self._vault.brands.get(delegation.brand)
        if brand is None or delegation.expires_at <= self._vault.clock():
            raise state_not_found()
        check(delegation)
        self._vault.brand(brand.id, delegation.context.kind)
        server = self._vault.servers[brand.id]
        facts = await server.prepare(keys=logs_in(delegation))
        taker = await self._vault.store.take_delegation(row.key)
        if taker is None:
            return await self._again(response, check, shown)
        try:
            grant = await self._exchange.grant(response, delegation, brand, server, facts)
        except CodeUnused as error:  # who shows it again notes what comes of that
            self._vault.events("delegation", brand=brand.id, outcome=error.reason.value.lower())
            give_back = partial(self._vault.store.give_back_delegation, row.key, taker)
            await self._vault.write_soon(give_back, event=UNSAVED, brand=brand.id)
            raise
        except VaultError as error:
            await self._failed(row.key, delegation, error)
            raise
        keeping = self._vault.background.spawn(
            self._keep(row.key, delegation, grant, brand, shown.response), "delegation"
        )
        kept, _ = await asyncio.wait({keeping}, timeout=PATIENCE)
        if not kept:
            raise StoreUnavailable(
                f"the consumer has logged in to brand {brand.id!r}, and the store does not take it: "
                "it is kept as soon as the store does; repeat this call until then",
                retry_after=1.0,
            )
        keeping.result()
        return await self._tell(await self.outcomes.get(delegation.id), shown)

    async def _again(self, response: AuthorizationResponse, check: Check, shown: Shown) -> Delegated:
        """What came of a response that was shown before, where nobody was told. No request is made."""
        outcome = await self.outcomes.get(self._vault.sealer.delegation_id(response.state))
        if outcome is None or outcome.brand not in self._vault.brands:
            raise state_not_found()
        going_on = outcome.status is DelegationStatus.PENDING and outcome.expires_at > self._vault.clock()
        if not going_on and not shown.led_to(outcome):
            raise state_not_found()
        check(outcome)
        if going_on:
            raise ServerUnavailable("this login is being completed: repeat the call", retry_after=1.0)
        return await self._tell(outcome, shown)

    async def _tell(self, outcome: Outcome | None, shown: Shown) -> Delegated:
        """What came of it, told once: to who is still there."""
        if outcome is None or not shown.led_to(outcome) or shown.unanswered:
            raise state_not_found()
        told = self.outcomes.told(outcome)
        try:
            if outcome.status is DelegationStatus.AWAITING_CONFIRMATION:
                done = await self.confirmations.show(outcome, shown.response, told)
            elif outcome.delegated and await self._vault.store.set_outcome(told):
                done = outcome.delegated
            else:
                raise state_not_found()
        except StoreUnavailable:  # it may have been noted, all the same
            self._let_again(outcome.delegation_id, shown.response, told.sealed, outcome.brand)
            raise
        return replace(done, told=told.sealed)

    async def _keep(
        self, taken: bytes, delegation: Delegation, grant: Grant, brand: Brand, response: bytes
    ) -> None:
        """Store the grant, or where the brand's consumers confirm, lock it; however long the store cannot."""

        async def store() -> None:
            if brand.confirms:
                await self.confirmations.hold(taken, delegation, grant, brand, response)
                return
            fresh = used(grant, self._vault.clock())
            outcome = self.outcomes.completed(
                taken, delegation, delegated(delegation.context, fresh), response
            )
            if not await self._keeping.keep(delegation.context, fresh, Completion(taken, outcome)):
                raise state_not_found()

        try:
            await self._vault.insist(store, event=UNSAVED, brand=brand.id)
        except DelegationFailed as error:
            await self._revoker.revoke_soon(grant)
            await self._failed(taken, delegation, error)
            raise
        if not brand.confirms:
            self._vault.events("delegation", brand=brand.id, outcome="completed")
        self.outcomes.wake(delegation.id)

    async def _failed(self, key: bytes, delegation: Delegation, error: VaultError) -> None:
        self._vault.events("delegation", brand=delegation.brand, outcome=error.reason.value.lower())
        await self.outcomes.failed(key, delegation, error)


def code_challenge(verifier: Secret) -> str:
    """The S256 code challenge (RFC 7636 section 4.2)."""
    digest = hashlib.sha256(verifier.reveal().encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
