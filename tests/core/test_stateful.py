"""Random interleavings of two sidecars over one store, with a model beside them."""

import asyncio
import os
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.core.world import HandClock, World, keyring, permit_all
from tests.fakes.memory_store import MemoryStore
from tests.fakes.server import FakeServer, Family, lost
from tokenvault_sidecar.core.errors import (
    ConsentNeeded,
    GrantNotFound,
    ServerUnavailable,
    StateNotFound,
    SubjectMismatch,
)
from tokenvault_sidecar.core.model import Context, ContextKind

CONTEXTS = [
    Context(ContextKind.CONSUMER, "one"),
    Context(ContextKind.CONSUMER, "two"),
    Context(ContextKind.CONVERSATION, "one"),
]
contexts = st.sampled_from(CONTEXTS)
which = st.integers(0, 1)
EXAMPLES = int(os.environ.get("TOKENVAULT_EXAMPLES", "500"))
"""`make fuzz` has more."""
some_ticks = st.sampled_from([0, 2, 15])


class Sidecars(RuleBasedStateMachine):
    """Each operation is a task that the machine lets run a little, or to its end."""

    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = HandClock()
        self.server = FakeServer(self.clock, gated=frozenset({"refresh"}))
        self.keys = keyring()
        self.store = MemoryStore(lease_clock=self.clock)
        self.sidecars = [self.sidecar(), self.sidecar()]
        self.links: list[tuple[Context, str]] = []
        self.pending: list[asyncio.Task[Any]] = []
        self.version: dict[Context, str] = {}
        self.epoch: Counter[Context] = Counter()
        self.gone: set[Context] = set()
        self.completing: Counter[Context] = Counter()
        self.family: dict[Context, Family] = {}
        self.ambiguous = 0
        for context in CONTEXTS:
            self.challenge(context, 0)
            self.run(self._complete(*self.links.pop(), context.id, 0))

    def sidecar(self) -> World:
        return World(store=self.store, clock=self.clock, server=self.server, keys=self.keys)

    # what may happen

    @rule(context=contexts, at=which)
    def challenge(self, context: Context, at: int) -> None:
        self.links.append((context, self.run(self.sidecars[at].challenge(context))))

    @precondition(lambda self: self.links)
    @rule(at=which, data=st.data(), replay=st.booleans(), stranger=st.booleans())
    def complete(self, at: int, data: st.DataObject, replay: bool, stranger: bool) -> None:
        index = data.draw(st.integers(0, len(self.links) - 1))
        context, url = self.links[index] if replay else self.links.pop(index)
        account = "mallory" if stranger else context.id
        self.begin(self._complete(context, url, account, at))

    async def _complete(self, context: Context, url: str, account: str, at: int) -> None:
        self.completing[context] += 1
        try:
            response = self.server.login(url, account)
            await self.sidecars[at].delegations.complete(response, caller="bot", permit=permit_all)
            self.gone.discard(context)
            assert response.code is not None
            self.family[context] = self.server.codes[response.code.reveal()].family
        except (StateNotFound, SubjectMismatch, ServerUnavailable):
            pass
        except asyncio.CancelledError:  # by a crash: it may have been stored all the same
            self.gone.discard(context)
            self.family.pop(context, None)
            raise
        finally:
            self.completing[context] -= 1

    @rule(context=contexts, at=which, reject=st.booleans(), ticks=some_ticks)
    def get(self, context: Context, at: int, reject: bool, ticks: int) -> None:
        self.begin(self._get(context, at, reject))
        self.tick(ticks)

    async def _get(self, context: Context, at: int, reject: bool) -> None:
        rejected = self.version.get(context) if reject else None
        gone_before = context in self.gone and not self.completing[context]
        epoch, family_before = self.epoch[context], self.family.get(context)
        quiet = not self.completing[context]
        try:
            token = await self.sidecars[at].get(context, rejected_version=rejected)
        except (ConsentNeeded, ServerUnavailable):
            return
        if gone_before and not self.completing[context] and self.epoch[context] == epoch:
            assert context not in self.gone, "a grant came back from the dead"
        self.version[context] = token.version
        family = self.server.access_tokens.get(token.access_token.reveal())
        if (
            quiet
            and family is not None
            and family_before is not None
            and family_before is self.family.get(context)
            and not self.completing[context]
        ):
            assert family is family_before, "a token of another context, or of a delegation that was replaced"

    @rule(context=contexts, at=which)
    def invalidate(self, context: Context, at: int) -> None:
        self.run(self._invalidate(context, at))  # revocation may be held, this is not

    async def _invalidate(self, context: Context, at: int) -> None:
        await self.sidecars[at].tokens.invalidate("acme", context)
        self.epoch[context] += 1
        if not self.completing[context]:
            self.gone.add(context)

    @rule(seconds=st.sampled_from([1.0, 40.0, 250.0, 301.0, 1900.0]))
    def pass_time(self, seconds: float) -> None:
        under_way = self.leases()
        self.clock.advance(seconds)
        self.ambiguous += under_way - self.leases()  # whoever sleeps past its lease may be overtaken

    def leases(self) -> int:
        return sum(self.store._leased(key) for key in self.store.grants)

    @rule(at=which)
    def housekeep(self, at: int) -> None:
        self.begin(self._housekeep(at))

    async def _housekeep(self, at: int) -> None:
        await self.sidecars[at].housekeeping.renew("acme")
        await self.sidecars[at].housekeeping.purge()
        await self.sidecars[at].revoker.work()

    @rule()
    def hold(self) -> None:
        """The server takes its time: what is asked from now on waits."""
        if self.server.gate is None:
            self.server.gate = asyncio.Event()

    @precondition(lambda self: self.server.gate is not None)
    @rule()
    def answer(self) -> None:
        gate, self.server.gate = self.server.gate, None
        if gate is not None:
            gate.set()
        self.tick(20)

    @rule(context=contexts, at=which, ticks=some_ticks)
    def read_expired(self, context: Context, at: int, ticks: int) -> None:
        self.pass_time(301)
        self.get(context, at, False, ticks)

    @rule(context=contexts, at=which)
    def lose_an_answer(self, context: Context, at: int) -> None:
        self.ambiguous += 1
        self.server.late_faults.append(lost())
        self.read_expired(context, at, 40)

    @rule(context=contexts, at=which)
    def delegate_anew(self, context: Context, at: int) -> None:
        self.challenge(context, at)
        self.run(self._complete(*self.links.pop(), context.id, at))

    @rule()
    def refuse_service(self) -> None:
        self.server.faults.append(ServerUnavailable("503"))

    @rule(at=which)
    def crash(self, at: int) -> None:
        """The process dies where it stands; another starts in its place."""
        self.ambiguous += 1
        for task in list(self.sidecars[at].background._tasks):
            task.cancel()
        self.tick(3)
        self.sidecars[at] = self.sidecar()

    @rule(ticks=st.integers(1, 30))
    def tick(self, ticks: int) -> None:
        async def some() -> None:
            for _ in range(ticks):
                await asyncio.sleep(0)

        self.loop.run_until_complete(some())
        self.collect()

    # what must hold

    @invariant()
    def one_redemption_per_token(self) -> None:
        if not hasattr(self, "server"):
            return
        shown = Counter(self.server.redeemed)
        assert all(times <= 2 for times in shown.values()), "a refresh token was sent three times"
        again = sum(times - 1 for times in shown.values())
        assert again <= self.ambiguous, "a refresh token was sent twice without need"

    @invariant()
    def conversations_hold_access_tokens_alone(self) -> None:
        if not hasattr(self, "store"):
            return
        for row in self.store.grants.values():
            if row.kind is ContextKind.CONVERSATION:
                grant = self.sidecars[0].vault.sealer.open_grant(row)
                assert grant.tokens.refresh_token is None
                assert grant.tokens.id_token is None

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        self.answer()
        self.pass_time(31)  # leases of the dead run out
        self.run(self.settle())
        for context in self.gone:
            try:
                self.run(self.sidecars[0].get(context))
            except GrantNotFound:
                continue
            raise AssertionError("a grant came back from the dead")
        self.run(self.settle())
        self.loop.close()

    async def settle(self) -> None:
        async with asyncio.timeout(20):
            await asyncio.gather(*self.pending, return_exceptions=True)
            for sidecar in self.sidecars:
                await sidecar.background.drain()

    # the machinery

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        result = self.loop.run_until_complete(work)
        self.collect()
        return result

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        self.pending.append(self.loop.create_task(work))
        self.tick(1)

    def collect(self) -> None:
        """A failed assertion in a task is the machine's failure."""
        for task in [task for task in self.pending if task.done()]:
            self.pending.remove(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error


def test_two_sidecars_over_one_store() -> None:
    run_state_machine_as_test(
        Sidecars, settings=settings(max_examples=EXAMPLES, stateful_step_count=50, deadline=None)
    )
