"""The load: bots that ask for their consumers' tokens, use them, and delegate anew where they must."""

import asyncio
import random
import time

import httpx2

from tests.authserver.consumer import Consumer
from tests.torture.fleet import BRAND, Fleet, Incarnation
from tests.torture.judge import PATIENCE, Judge, Served, Wrong
from tokenvault import (
    AuthorizationServerUnavailable,
    ConsentRequired,
    DeadlineExceeded,
    GrantExpired,
    StateNotFound,
    StoreUnavailable,
    TokenVaultError,
    VaultUnreachable,
)

CALLERS = (1, 1, 2, 3)
"""How many ask at once, one of these at random."""

PAUSE = (0.1, 0.5)
"""Seconds between two questions."""

FALSE_ALARM = 0.2
"""How often a bot reports a token as rejected that was not: APIs err, too."""

_DELEGATION = 60.0


class Bot:
    """Asks for one consumer's tokens, until cancelled."""

    def __init__(
        self,
        consumer: str,
        *,
        fleet: Fleet,
        judge: Judge,
        api: httpx2.AsyncClient,
        userinfo_endpoint: str,
        logins: asyncio.Semaphore,
        chance: random.Random,
    ) -> None:
        self.consumer = consumer
        self._fleet = fleet
        self._judge = judge
        self._api = api
        self._userinfo_endpoint = userinfo_endpoint
        self._logins = logins
        self._chance = chance
        self._rejected: str | None = None

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            if await self.ask() is False:
                await self.delegate()
            await asyncio.sleep(self._chance.uniform(*PAUSE))

    async def ask(self) -> bool | None:
        """One to three callers at once: True where a token came that works, False where consent is needed.

        None: neither, for a kill or a refusal that asks to wait. One of the
        callers reports what the API rejected, the others know nothing of it.
        Where consent is needed, such a one asks once more.
        """
        rejected, self._rejected = self._rejected, None
        others = self._chance.choice(CALLERS) - 1
        said = await asyncio.gather(self._get(rejected), *(self._get() for _ in range(others)))
        if False in said:
            self._judge.consent_required(self.consumer)
            await self._get()
            return False
        if said[0] is None and self._rejected is None:
            self._rejected = rejected  # perhaps nobody heard it
        return True if True in said else None

    async def delegate(self) -> None:
        """The consumer logs in and consents, however often a sidecar is killed meanwhile."""
        try:
            async with self._logins, asyncio.timeout(_DELEGATION):
                while not await self._delegated():
                    self._judge.counts["delegations cut off"] += 1
        except TimeoutError:
            self._judge.wrong(Wrong.HUNG, f"{self.consumer}: no delegation in {_DELEGATION:.0f} s")

    async def _delegated(self) -> bool:
        sidecar = await self._fleet.some(self._chance)
        try:
            challenge = await sidecar.client.start_delegation(BRAND, consumer=self.consumer, timeout=PATIENCE)
            response = await Consumer().authorize(challenge.authorization_url, self.consumer)
            sidecar = await self._fleet.some(self._chance)
            await sidecar.client.complete_delegation(response, timeout=PATIENCE)
        except StateNotFound:
            return False  # a process was killed between using up the state and storing the grant
        except TokenVaultError as error:
            self._failed(sidecar, error)
            return False
        self._judge.counts["delegations"] += 1
        return True

    async def _get(self, rejected: str | None = None) -> bool | None:
        sidecar = await self._fleet.some(self._chance)
        began = time.time()
        try:
            token = await sidecar.client.get_token(
                BRAND, consumer=self.consumer, rejected_token_version=rejected, timeout=PATIENCE
            )
        except ConsentRequired as error:
            if not isinstance(error, GrantExpired):
                self._judge.wrong(Wrong.LOST, f"{self.consumer}: {type(error).__name__}")
            return False
        except TokenVaultError as error:
            self._failed(sidecar, error)
            return None
        served = Served(self.consumer, token, began, time.time())
        issued = self._judge.served(served)
        answer = await self._api.get(
            self._userinfo_endpoint, headers={"Authorization": token.authorization_header}
        )
        if answer.status_code == 200:
            self._judge.accepted(served, answer.json()["sub"])
            if self._chance.random() < FALSE_ALARM:
                self._rejected = token.token_version
            return True
        if issued is not None:
            self._judge.refused(served, issued)
        self._rejected = token.token_version
        return None

    def _failed(self, sidecar: Incarnation, error: TokenVaultError) -> None:
        if sidecar.killed_at is not None:
            self._judge.counts["calls cut off by a kill"] += 1
        elif isinstance(error, AuthorizationServerUnavailable | StoreUnavailable):
            self._judge.counts["calls told to wait"] += 1
        elif isinstance(error, DeadlineExceeded):
            self._judge.wrong(Wrong.HUNG, f"{self.consumer}: no answer in {PATIENCE:.0f} s")
        else:
            kind = (
                "unreachable though it runs" if isinstance(error, VaultUnreachable) else type(error).__name__
            )
            self._judge.wrong(Wrong.OTHER, f"{self.consumer}: {kind}: {error.message}")
