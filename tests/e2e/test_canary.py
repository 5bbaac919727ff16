"""No secret is written anywhere: not to the file, its log or shared memory, the logs, an error, a repr."""

import base64
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote_plus, urlsplit

import pysqlite3
import pytest
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from joserfc.jwk import ECKey

from tests.authserver.clients import PRIVATE_KEY_JWT, Registration
from tests.authserver.scripted import FAULTS, Answer, Reply, ScriptedServer, Seen
from tests.e2e.canaries import Canaries, disguises, files
from tests.e2e.scripted import CLIENT_ID, consent, issuing, scripted_brand, token_path
from tests.e2e.vaults import OTHER_BOT, SERVICE, STRANGER, Whose, brand, connect, make_vault, running
from tests.ops.ports import get
from tests.running import SidecarProcess
from tokenvault import AsyncTokenVaultClient, ConsentRequired, TokenVaultError

Vault = AsyncTokenVaultClient


@dataclass
class Play:
    """What a run knows: the secrets, and what it was told."""

    server: ScriptedServer
    secrets: Canaries = field(default_factory=Canaries)
    named: Canaries = field(default_factory=Canaries)
    """What a caller called by name, a scope say: its own error may name it, nothing else may."""
    heard: list[object] = field(default_factory=list)
    account: str = field(init=False)

    def __post_init__(self) -> None:
        self.account = self.secrets.plant("subject")

    def script(self, name: str, answer: Answer | Reply) -> None:
        """Answer so; what is issued is a secret."""

        def remembering(seen: Seen) -> Reply:
            reply = answer if isinstance(answer, Reply) else answer(seen)
            if isinstance(reply.json, dict):
                for member in ("access_token", "refresh_token", "id_token"):
                    if isinstance(reply.json.get(member), str):
                        self.secrets.know(f"{member} of {name}", reply.json[member])
            return reply

        self.server.on(token_path(name), remembering)

    async def challenge(self, bot: Vault, name: str, whose: Whose, **more: Any) -> dict[str, str]:
        """The authorization response of a consumer who consents at once."""
        challenge = await bot.start_delegation(name, **whose, **more)
        self.heard.append(challenge)
        asked = dict(parse_qsl(urlsplit(challenge.authorization_url).query))
        for parameter in ("state", "nonce"):
            self.secrets.know(f"{parameter} of {name}", asked[parameter])
        response = consent(self.server, challenge, self.account)
        self.secrets.know(f"code of {name}", response["code"])
        return response

    async def delegate(self, bot: Vault, name: str, whose: Whose) -> None:
        self.heard.append(await bot.complete_delegation(await self.challenge(bot, name, whose)))

    async def refused(self, call: Awaitable[object]) -> None:
        """The call must fail; what it says is heard."""
        with pytest.raises(TokenVaultError) as error:
            await call
        self.heard.append(error.value)

    async def made(self, call: Awaitable[object]) -> None:
        """The call may answer or fail; what it says is heard."""
        try:
            self.heard.append(await call)
        except TokenVaultError as error:
            self.heard.append(error)

    def spoken(self) -> dict[str, bytes]:
        """Texts and reprs of all that the client gave and raised."""
        texts = {}
        for number, thing in enumerate(self.heard):
            text = f"{thing!r} {thing}"
            if isinstance(thing, BaseException):
                text += f" {vars(thing)} {''.join(traceback.format_exception(thing))}"
            texts[f"{type(thing).__name__} {number}"] = text.encode()
        return texts

    def requests(self) -> None:
        """What the authorization server was sent are secrets, too."""
        sent = ("code", "code_verifier", "refresh_token", "client_assertion", "client_secret", "token")
        for seen in self.server.seen:
            if seen.method != "POST":
                continue
            for parameter in sent:
                if value := seen.form.get(parameter):
                    self.secrets.know(f"{parameter} at {seen.path}", value)
            if basic := seen.headers.get("authorization"):
                self.secrets.know("Authorization", basic.removeprefix("Basic "))


async def _good_flows(play: Play, bot: Vault, name: str) -> None:
    play.script(name, issuing(play.server))
    consumer = Whose(consumer=play.secrets.plant("consumer id"))
    conversation = Whose(conversation=play.secrets.plant("conversation id"))
    for whose in (consumer, conversation):
        await play.delegate(bot, name, whose)
        play.heard.append(await bot.get_token(name, **whose))
    for _ in range(2):
        token = await bot.get_token(name, **consumer, include_id_token=True)
        play.heard.append(await bot.get_token(name, **consumer, rejected_token_version=token.token_version))
    token = await bot.get_token(name, **conversation)
    await play.refused(bot.get_token(name, **conversation, rejected_token_version=token.token_version))
    forgotten = Whose(consumer=play.secrets.plant("forgotten consumer id"))
    await play.delegate(bot, name, forgotten)
    revoked = len(play.server.requests(f"/{name}/revoke"))
    play.heard.append(await bot.invalidate(name, **forgotten))
    await play.server.arrived(f"/{name}/revoke", revoked + 2)
    await play.refused(bot.get_token(name, **forgotten))
    await play.challenge(bot, name, forgotten)  # stays pending
    await play.refused(bot.get_token(name, **forgotten, challenge=True))
    refused = play.heard[-1]
    assert isinstance(refused, ConsentRequired)
    assert refused.challenge is not None
    play.secrets.know("link of a refusal", refused.challenge.authorization_url)
    asked = dict(parse_qsl(urlsplit(refused.challenge.authorization_url).query))
    play.secrets.know("state of a refusal", asked["state"])


async def _codes(play: Play, bot: Vault, name: str) -> None:
    """Codes for consumers: one is brought, one is guessed at until it is void, and one waits."""
    play.script(name, issuing(play.server))
    for guesses, brought in ((2, True), (5, False), (0, False)):
        whose = Whose(conversation=play.secrets.plant("conversation id with a code"))
        with pytest.raises(ConsentRequired) as error:
            await bot.get_token(name, **whose, challenge=True)
        challenge = error.value.challenge
        assert challenge is not None
        delegated = await bot.complete_delegation(consent(play.server, challenge, play.account))
        play.heard.append(delegated)
        assert delegated.confirmation is not None
        code = delegated.confirmation.code
        await play.refused(bot.get_token(name, **whose, challenge=True))
        await play.refused(bot.watch_delegation(challenge.delegation_id))
        for number in range(1, guesses + 1):
            guess = f"{(int(code) + number) % 10**8:08}"
            play.secrets.know("guessed code", guess, least=8)
            await play.refused(bot.confirm_delegation(challenge.delegation_id, guess))
        typed = play.secrets.plant("what was typed instead of a code")
        await play.refused(bot.confirm_delegation(challenge.delegation_id, typed))
        if brought:
            play.heard.append(await bot.confirm_delegation(challenge.delegation_id, code))
        play.secrets.know("confirmation code", code, least=8)
        play.secrets.know("confirmation code", f"{code[:4]} {code[4:]}", least=9)


async def _bad_answers(play: Play, bot: Vault, name: str) -> None:
    """Answers that repeat what the server was sent, and more."""

    def telling(status: int, error: str) -> Callable[[Seen], Reply]:
        def answer(seen: Seen) -> Reply:
            everything = f"{seen.form} {seen.headers}"
            body = {"error": error, "error_description": everything, "error_uri": everything}
            return Reply(status=status, json=body, headers={"X-Debug": everything})

        return answer

    leaked = play.secrets.plant("token in a broken answer")
    broken: tuple[Answer | Reply, ...] = (
        telling(400, "invalid_grant"),
        telling(400, leaked),
        telling(401, "invalid_client"),
        Reply(body=f'{{"access_token": "{leaked}"'.encode()),
        Reply(json={"access_token": leaked, "token_type": leaked, "expires_in": leaked}),
        Reply(json={"access_token": f"{leaked}\n", "token_type": "Bearer"}),
        Reply(body=f"<html>{leaked}</html>".encode(), headers={"Content-Type": "text/html"}),
        Reply(status=302, headers={"Location": f"https://elsewhere.example/?token={leaked}"}),
        Reply(raw=f"HTTP/1.1 2OO {leaked}\r\n{leaked}\r\n\r\n".encode()),
        issuing(play.server, {"id_token": None}),
        issuing(play.server, {"id_token": leaked}),
        issuing(play.server, {"id_token": play.server.mint(client_id=CLIENT_ID, nonce=leaked, iss=leaked)}),
        issuing(play.server, {"id_token": play.server.mint(header={"kid": leaked, "alg": "ES256"})}),
        *(issuing(play.server, wrong=fault) for fault in FAULTS),
    )
    whose = Whose(consumer=play.secrets.plant("refused consumer id"))
    for answer in broken:
        # A success in between keeps the circuit breaker closed.
        play.script(name, issuing(play.server))
        await play.delegate(bot, name, whose)
        play.script(name, answer)
        other = Whose(consumer=play.secrets.plant("refused consumer id"))
        await play.refused(bot.complete_delegation(await play.challenge(bot, name, other)))
        await play.refused(bot.get_token(name, **other))
    for answer in broken[:8]:
        play.script(name, issuing(play.server))
        await play.delegate(bot, name, whose)
        token = await bot.get_token(name, **whose)
        play.script(name, answer)
        await play.made(bot.get_token(name, **whose, rejected_token_version=token.token_version))
    await play.refused(bot.start_delegation("lost", **whose))


async def _bad_requests(play: Play, sidecar: SidecarProcess, bot: Vault, name: str) -> None:
    """A canary in every field, of the right kind and of a wrong one."""
    plant, called = play.secrets.plant, play.named.plant
    ends = ("", "\n", "\x00", " ", '"', "x" * 5000)
    for end in ends:
        person = Whose(consumer=plant("consumer id of a bad request") + end)
        chat = Whose(conversation=plant("conversation id of a bad request") + end)
        for whose in (person, chat):
            await play.refused(bot.start_delegation(called("brand") + end, **whose))
            await play.refused(bot.start_delegation(name, **whose, scopes=[called("scope") + end]))
            await play.refused(bot.start_delegation(name, **whose, redirect_uri=plant("redirect URI") + end))
            await play.refused(bot.get_token(name, **whose, rejected_token_version=plant("version") + end))
            await play.refused(bot.get_token(name, **whose, scopes=[called("scope") + end]))
            for parameters in (
                {"prompt": plant("parameter not allowed") + end},
                {called("parameter's name") + end: plant("value of an unknown parameter")},
                {"ui_locales": plant("over-long parameter") + "x" * 1024},
            ):
                await play.refused(bot.start_delegation(name, **whose, authorization_parameters=parameters))
        for given in (
            {"code": plant("code") + end},
            {"error": plant("error") + end, "error_description": plant("error description") + end},
            {"code": plant("code") + end, "iss": plant("iss") + end},
        ):
            await play.refused(bot.complete_delegation(given | {"state": plant("state") + end}))
    for given in (
        {"iss": f"https://{plant('iss')}.example"},
        {"code": "", "error": plant("error"), "error_description": plant("error description")},
        {"code": "", "error": "access_denied", "error_description": plant("error description")},
    ):
        response = await play.challenge(bot, name, Whose(conversation=plant("conversation id")))
        await play.refused(bot.complete_delegation(response | given))
        await play.refused(bot.complete_delegation(response))
    response = await play.challenge(bot, name, Whose(conversation=plant("conversation id")))
    for caller in (OTHER_BOT, SERVICE, STRANGER):
        async with connect(sidecar, caller) as other:
            await play.refused(other.complete_delegation(response))
            await play.refused(other.get_token(called("brand"), consumer=plant("consumer id")))
    wrong = await play.challenge(
        bot, name, Whose(consumer=plant("consumer id")), expected_subject=plant("expected subject")
    )
    await play.refused(bot.complete_delegation(wrong))


def _kek_and_what_it_wraps(play: Play, folder: Path) -> None:
    text = (folder / "kek").read_text().strip()
    kek = base64.b64decode(text)
    play.secrets.know("KEK", text)
    play.secrets.know("KEK", kek)
    for purpose, wrapped in _rows(folder, "SELECT purpose, wrapped FROM keys"):
        play.secrets.know(f"{purpose} key", aes_key_unwrap(kek, wrapped))


def _command_line(sidecar: SidecarProcess) -> bytes:
    return Path(f"/proc/{sidecar.pid}/cmdline").read_bytes()


def _rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    connection = pysqlite3.connect(f"file:{folder}/tokenvault.db?mode=ro", uri=True)
    try:
        return list(connection.execute(query))
    finally:
        connection.close()


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


async def test_no_secret_anywhere(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = Play(server)
    folder, scratch = tmp_path / "vault", tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    secret = f"{play.secrets.plant('client secret')} %+&=:/"
    play.secrets.know("client secret", secret)
    play.secrets.know("client secret", quote_plus(secret))
    assert PRIVATE_KEY_JWT.private_key
    for line in PRIVATE_KEY_JWT.private_key.splitlines()[1:-1]:
        play.secrets.know("signing key", line)
    play.secrets.know(
        "signing key", str(ECKey.import_key(PRIVATE_KEY_JWT.private_key).as_dict(private=True)["d"])
    )
    brands: dict[str, dict[str, Any]] = {}
    for name, registration in {
        "basic": Registration(CLIENT_ID, secret=secret),
        "post": Registration(CLIENT_ID, secret=secret, auth_method="client_secret_post"),
        "key": PRIVATE_KEY_JWT,
    }.items():
        table = brand(folder, server.issuer, registration)
        private = {key: value for key, value in table.items() if key.endswith("_file")}
        brands[name] = scripted_brand(
            server,
            name,
            client_auth=registration.auth_method,
            allowed_authorization_parameters=["ui_locales"],
            **private,
        )
        server.on(f"/{name}/revoke", Reply())
    elsewhere = {"authorization_endpoint": None, "token_endpoint": None}
    brands["guarded"] = scripted_brand(server, "guarded", confirmation_code=True)
    server.on("/guarded/revoke", Reply())
    brands["lost"] = scripted_brand(server, "lost", issuer=f"{server.url}/lost", **elsewhere)
    config = make_vault(folder, brands, server={"log_level": "debug"})
    given = files(folder)

    def places() -> dict[str, bytes]:
        """All that was written, by the process itself or by who started it for it."""
        found = files(folder) | files(scratch)
        assert {path: found[path] for path in given if path != str(config)} == {
            path: content for path, content in given.items() if path != str(config)
        }
        return {path: content for path, content in found.items() if path not in given}

    for log_format, other in (("json", "console"), ("console", "json")):
        async with running(config) as sidecar:
            async with connect(sidecar) as bot:
                for name in ("basic", "post", "key"):
                    await _good_flows(play, bot, name)
                await _codes(play, bot, "guarded")
                await _bad_answers(play, bot, "basic" if log_format == "json" else "post")
                await _bad_requests(play, sidecar, bot, "key")
            _kek_and_what_it_wraps(play, folder)
            play.requests()
            while_running = places()
            log = str(folder / "tokenvault.db-wal")
            assert while_running[log]  # or nothing of it would be looked at
            while_running["command line"] = _command_line(sidecar)
            while_running["metrics"] = (await get(sidecar, "/metrics")).text.encode()
            assert b"tokenvault_calls_total{" in while_running["metrics"]
            assert play.secrets.leaks(while_running) == []
            assert play.named.leaks(while_running) == []
        assert play.secrets.leaks(places()) == []
        assert play.named.leaks(places()) == []
        config.write_text(config.read_text().replace(f'"{log_format}"', f'"{other}"'))
    assert play.secrets.leaks(play.spoken()) == []

    # It was a run worth looking at.
    assert len(play.secrets) > 500
    assert sidecar.stderr.stat().st_size > 1000
    for kept in ("grants", "delegations"):
        sealed = _rows(folder, f"SELECT length(sealed) FROM {kept}")
        assert len(sealed) >= 6
        assert min(sealed) > (100,)


@pytest.mark.parametrize("form", [form for form, _ in disguises(b"any text")])
def test_the_search_finds(form: str, tmp_path: Path) -> None:
    canaries = Canaries()
    planted = dict(disguises(canaries.plant("canary").encode()))[form]
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "log").write_bytes(b"before " + planted + b" after")
    assert any(leak.startswith(f"canary, {form}, in ") for leak in canaries.leaks(files(tmp_path)))


@pytest.mark.parametrize("before", ["", "a", "ab"])
def test_the_search_finds_part_of_what_is_encoded(before: str) -> None:
    """An Authorization header, say: user name and secret in one."""
    canaries = Canaries()
    whole = f"{before}:{canaries.plant('canary')}:after".encode()
    assert canaries.leaks({"header": base64.b64encode(whole)})
    assert canaries.leaks({"header": base64.urlsafe_b64encode(whole)})
    assert canaries.leaks({"header": whole.hex().encode()})


def test_the_search_finds_what_a_database_holds(tmp_path: Path) -> None:
    canaries = Canaries()
    connection = pysqlite3.connect(str(tmp_path / "plain.db"), isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE grants (sealed)")
    connection.execute("INSERT INTO grants VALUES (?)", (canaries.plant("canary").encode(),))
    found = canaries.leaks(files(tmp_path))
    connection.close()
    assert any("/plain.db-wal" in leak for leak in found)
    assert any(leak.endswith("/plain.db") for leak in canaries.leaks(files(tmp_path)))


def test_the_search_finds_nothing_where_nothing_is() -> None:
    canaries = Canaries()
    canaries.plant("canary")
    assert canaries.leaks({"noise": b"canary-but-another-one" * 100}) == []
