"""The main job, step by step: delegate, keep sealed, hand out fresh, forget."""

import asyncio
from contextlib import AsyncExitStack
from urllib.parse import parse_qs, urlsplit

from tests.authserver.consumer import Consumer
from tests.demo import people
from tests.demo.people import BrandApi, expiry, refused, until
from tests.demo.stage import BRAND, Stage
from tests.demo.story import Story, expect
from tests.running import CallerFiles, caller_files
from tokenvault import (
    AsyncTokenVaultClient,
    ConsentRequired,
    GrantNotFound,
    PolicyDenied,
    Revocation,
    StateNotFound,
    Token,
    UnknownCaller,
    VaultUnreachable,
)

CHAT, OTHER_CHAT = "chat-1-of-the-demo", "chat-2-of-the-demo"
ALICE = "consumer-4711-of-the-demo"
AT_ONCE = 5
BOT = "spiffe://tokenvault.test/bot"
LEFT = 1.5
"""Seconds of life a token needs to get to the brand's API: the server counts in whole seconds."""


class Play:
    """Played once on a stage. The acts come in their order."""

    def __init__(
        self, stage: Stage, story: Story, bot: AsyncTokenVaultClient, service: AsyncTokenVaultClient
    ) -> None:
        self._stage = stage
        self._step = story.step
        self._say = story.say
        self._bot = bot
        self._service = service
        self._api = BrandApi(stage.provider)
        self._secrets: set[str] = set()

    async def conversation(self) -> Token:
        """Alice chats without being logged in at the brand."""
        self._say(f"\nAlice asks the bot something, in {CHAT}. She is not logged in.")
        with self._step("The bot asks the sidecar for this conversation's token.") as says:
            error = await refused(self._bot.get_token(BRAND, conversation=CHAT), GrantNotFound)
            says(f"there is none: Alice must be asked ({error})")
        with self._step("The bot asks for a link and shows it to Alice.") as says:
            challenge = await self._bot.challenge(BRAND, conversation=CHAT)
            query = parse_qs(urlsplit(challenge.authorization_url).query)
            expect(query.get("code_challenge_method") == ["S256"], "the link has no PKCE challenge")
            expect({"state", "nonce"} <= query.keys(), "the link has no state or no nonce")
            self._keep_secret(query["state"][0], query["nonce"][0])
            says("a link to the brand's own login page, with state, nonce and PKCE, good for one login")
        with self._step("Alice follows it in her browser, logs in at the brand and agrees.") as says:
            shown = await Consumer().come_back(challenge.authorization_url, "alice")
            answer = dict(shown.request.url.params)
            expect("code" in answer, "the browser came back without a code")
            self._keep_secret(answer["code"])
            expect("You are logged in" in shown.text, "the page says something else")
            says('her browser comes back to the sidecar with a code: "You are logged in", says the page')
        with self._step("The bot, which was waiting for what becomes of the link, is told.") as says:
            delegated = await challenge.outcome()
            scopes = " and ".join(delegated.granted_scopes)
            says(f"the sidecar has redeemed the code and keeps the token sealed; {scopes} were granted")
        with self._step("The bot takes the token and calls the brand's API with it.") as says:
            token = await self._bot.get_token(BRAND, conversation=CHAT)
            self._keep_secret(token.access_token)
            says(f"the brand's API answers {await self._api.call(token)}")
        with self._step("Somebody hands over the same answer once more.") as says:
            error = await refused(self._bot.complete_delegation(answer), StateNotFound)
            says(f"refused: it worked once ({error})")
        with self._step(f"The bot asks for the token in another conversation, {OTHER_CHAT}.") as says:
            error = await refused(self._bot.get_token(BRAND, conversation=OTHER_CHAT), GrantNotFound)
            says(f"nothing there: a conversation's token is for that conversation alone ({error})")
        return token

    async def consumer(self) -> Token:
        """Alice logs in: her tokens are shared by all of her conversations."""
        self._say("\nNow Alice is logged in at the brand: the bot knows which consumer she is.")
        with self._step("The bot shows her a link, she logs in and agrees, and the bot is told.") as says:
            await self._delegate(consumer=ALICE)
            token = await self._bot.get_token(BRAND, consumer=ALICE)
            self._keep_secret(token.access_token)
            says("kept under her consumer id, refresh token included, which no caller can ever read")
        with self._step("The bot calls the brand's API with her token.") as says:
            says(f"the brand's API answers {await self._use(self._bot)}")
        with self._step("Alice starts another conversation, with another bot process.") as says:
            async with self._caller(caller_files(self._stage.folder, "bot")) as another:
                says(f"no login needed: the brand's API answers {await self._use(another)}")
        return token

    async def brand_service(self) -> None:
        """What the brand's own service may read, and what not."""
        self._say("\nThe brand's own service calls too, with its own certificate.")
        with self._step("The brand service asks for the consumer's token.") as says:
            says(f"it may: the brand's API answers {await self._use(self._service)}")
        with self._step("The brand service asks for the conversation's token.") as says:
            error = await refused(self._service.get_token(BRAND, conversation=CHAT), PolicyDenied)
            says(f"refused, before any look-up: conversations are for bots only ({error})")

    async def strangers(self) -> None:
        """Who is let in at all."""
        self._say("\nStrangers try.")
        with self._step("A stranger claims to be the bot, with a certificate of another authority.") as says:
            async with self._caller(people.of_another_authority(self._stage.folder, BOT)) as stranger:
                error = await refused(stranger.get_token(BRAND, consumer=ALICE), VaultUnreachable)
            says(f"no connection: the TLS handshake is refused ({error})")
        with self._step("A workload of our own authority calls, but no configuration knows it.") as says:
            identity = "spiffe://tokenvault.test/unknown"
            async with self._caller(people.of_the_same_authority(self._stage.folder, identity)) as unknown:
                error = await refused(unknown.get_token(BRAND, consumer=ALICE), UnknownCaller)
            says(f"refused ({error})")

    async def after_expiry(self, of_chat: Token, of_alice: Token) -> None:
        """The conversation asks again; the consumer notices nothing."""
        self._say("\nTime passes.")
        with self._step("Both access tokens come to their end.") as says:
            await expiry(of_chat)
            await expiry(of_alice)
            statuses = await self._api.status(of_chat), await self._api.status(of_alice)
            expect(statuses == (401, 401), f"the brand's API answered {statuses} to expired tokens")
            says("the brand's API answers 401 to both")
        with self._step("The bot asks for the conversation's token.") as says:
            error = await refused(self._bot.get_token(BRAND, conversation=CHAT), ConsentRequired)
            expect(not self._api.refreshes(of_chat), "the sidecar tried to refresh a conversation's token")
            says(f"it is over, and is never renewed: Alice must be asked again ({error})")
        with self._step("The bot shows Alice a link again, she logs in and agrees.") as says:
            await self._delegate(conversation=CHAT)
            token = await self._bot.get_token(BRAND, conversation=CHAT)
            self._keep_secret(token.access_token)
            says(f"a new token: the brand's API answers {await self._api.call(token)}")
        with self._step("The bot asks for the consumer's token.") as says:
            says(f"renewed silently, no login: the brand's API answers {await self._use(self._bot)}")

    async def one_refresh(self) -> None:
        """Many report one token as rejected: one renewal."""
        with self._step(f"{AT_ONCE} parts of the bot say at once that the API rejected her token.") as says:
            old = await self._bot.get_token(BRAND, consumer=ALICE)
            new = await asyncio.gather(
                *(
                    self._bot.get_token(BRAND, consumer=ALICE, rejected_token_version=old.token_version)
                    for _ in range(AT_ONCE)
                )
            )
            self._keep_secret(old.access_token, *(token.access_token for token in new))
            expect(all(t.token_version != old.token_version for t in new), "the rejected token came again")
            times = len(self._api.redemptions(old))
            expect(times == 1, f"the authorization server saw its refresh token {times} times")
            says(
                f"all {AT_ONCE} get another one; the authorization server saw its refresh token exactly once"
            )
        with self._step("The authorization server's log is read: each refresh since she logged in.") as says:
            seen = self._api.refreshes(old)
            expect(all(entry.status == 200 for entry in seen), "the authorization server refused a refresh")
            expect(len({entry.presented for entry in seen}) == len(seen), "a refresh token was shown twice")
            says(f"{len(seen)} refreshes, each with a refresh token of its own, all answered 200")

    async def at_rest(self) -> None:
        """What somebody who gets hold of the files would see."""
        with self._step(
            "Somebody reads all that the sidecar has written: its database and its logs."
        ) as says:
            files = [*self._stage.folder.glob("tokenvault.db*"), *self._stage.folder.glob("sidecar.*")]
            written = {path.name: path.read_bytes() for path in files}
            expect(written.get("tokenvault.db"), "there is no database")
            for name, content in written.items():
                for secret in (*self._secrets, ALICE, CHAT):
                    expect(
                        secret.encode() not in content, f"{name} holds a token, a code or a name in the clear"
                    )
            says(f"no token, code, state or consumer's name in {len(written)} files: all is sealed")

    async def forgetting(self) -> None:
        """Alice withdraws."""
        self._say("\nAlice withdraws.")
        with self._step("The bot takes her token once more and calls the brand's API.") as says:
            token = await self._bot.get_token(BRAND, consumer=ALICE, min_ttl=LEFT)
            says(f"the brand's API answers {await self._api.call(token)}")
        with self._step("The bot tells the sidecar to forget her.") as says:
            outcome = await self._bot.invalidate(BRAND, consumer=ALICE)
            expect(outcome is Revocation.QUEUED, f"the sidecar answered {outcome}")
            says(f"deleted here; to be revoked at the authorization server ({outcome})")
        with self._step("The bot calls the brand's API with the old token.") as says:
            await until(lambda: self._api.is_revoked(token), "the authorization server did not revoke it")
            status = await self._api.status(token)
            expect(status == 401, f"the brand's API answered {status}")
            says("the brand's API answers 401: the token was revoked there")
        with self._step("The bot asks for her token.") as says:
            error = await refused(self._bot.get_token(BRAND, consumer=ALICE), GrantNotFound)
            says(f"there is none ({error})")

    async def _delegate(self, *, consumer: str | None = None, conversation: str | None = None) -> None:
        challenge = await self._bot.challenge(BRAND, consumer=consumer, conversation=conversation)
        answer = (await Consumer().come_back(challenge.authorization_url, "alice")).request.url.params
        self._keep_secret(*(answer[name] for name in ("code", "state") if name in answer))
        await challenge.outcome()

    async def _use(self, caller: AsyncTokenVaultClient) -> str:
        token = await caller.get_token(BRAND, consumer=ALICE, min_ttl=LEFT)
        self._keep_secret(token.access_token)
        return await self._api.call(token)

    def _caller(self, files: CallerFiles) -> AsyncTokenVaultClient:
        return AsyncTokenVaultClient(self._stage.sidecar.address, **files)

    def _keep_secret(self, *secrets: str) -> None:
        self._secrets.update(secrets)


async def play(stage: Stage, story: Story) -> None:
    """All acts. Raises StepFailed at the first step that does not come out as said."""
    async with AsyncExitStack() as stack:
        bot, service = [
            await stack.enter_async_context(
                AsyncTokenVaultClient(stage.sidecar.address, **caller_files(stage.folder, name))
            )
            for name in ("bot", "brand-service")
        ]
        the = Play(stage, story, bot, service)
        of_chat = await the.conversation()
        of_alice = await the.consumer()
        await the.brand_service()
        await the.strangers()
        await the.after_expiry(of_chat, of_alice)
        await the.one_refresh()
        await the.at_rest()
        await the.forgetting()
    story.say("\nThe end.")
    with story.step("The sidecar is told to stop (SIGTERM).") as says:
        status = await asyncio.to_thread(stage.sidecar.stop)
        expect(status == 0, f"its exit status is {status}")
        says("it finishes what is under way and ends with status 0")
