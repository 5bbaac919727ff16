"""The authorization server's adapter over real sockets: what is sent, and what each answer means."""

import asyncio
import base64
import json
import logging
import socket
import ssl
import time
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlsplit

import pytest
import uvloop
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from joserfc import jwt

from tests.authserver.scripted import Reply, ScriptedServer
from tokenvault_sidecar.adapters.client_auth import ClientAuth
from tokenvault_sidecar.adapters.http_client import Answer, Miss, new_client, send
from tokenvault_sidecar.adapters.jose import SignatureRegistry, read_private_key
from tokenvault_sidecar.adapters.oauth import OAuthServer, ServerSettings
from tokenvault_sidecar.core.errors import (
    AnswerLost,
    InvalidGrant,
    InvalidIdToken,
    ServerMisconfigured,
    ServerUnavailable,
)
from tokenvault_sidecar.core.model import Secret
from tokenvault_sidecar.core.ports import AuthorizationRequest, AuthorizationServer
from tokenvault_sidecar.devkit import DevelopmentCA

SECRET = "p%4+&:/ =ä~*canary"  # what form-encoding is for
CODE = Secret("code-canary&=%+ä")
VERIFIER = Secret("verifier-canary")
REFRESH = Secret("refresh-canary&=%+ä")
GIVEN = {"access_token": "at-canary", "token_type": "Bearer", "expires_in": 30}

Connect = Callable[..., OAuthServer]


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        server.on("/token", Reply(json=GIVEN))
        server.on("/revoke", Reply())
        yield server


@pytest.fixture
async def connect(server: ScriptedServer) -> AsyncIterator[Connect]:
    made: list[OAuthServer] = []

    def make(**given: Any) -> OAuthServer:
        made.append(_oauth(server, **given))
        return made[-1]

    yield make
    for oauth in made:
        await oauth.aclose()


def _oauth(server: ScriptedServer, *, brand: str = "acme", **given: Any) -> OAuthServer:
    settings: dict[str, Any] = {
        "issuer": server.issuer,
        "client_id": "client",
        "client_secret": Secret(SECRET),
        "development": True,
        **given,
    }
    return OAuthServer(ServerSettings(**settings), brand=brand)


async def _exchange(oauth: AuthorizationServer) -> Mapping[str, object]:
    return await oauth.exchange(CODE, redirect_uri="https://bot.example/cb?a=1", code_verifier=VERIFIER)


# What is sent


async def test_exchange_sends_the_code_and_what_belongs_to_it(
    server: ScriptedServer, connect: Connect
) -> None:
    assert await _exchange(connect()) == GIVEN
    (seen,) = server.requests("/token")
    assert seen.method == "POST"
    assert seen.headers["content-type"].startswith("application/x-www-form-urlencoded")
    assert seen.headers["accept"] == "application/json"
    assert seen.form == {
        "grant_type": "authorization_code",
        "code": CODE.reveal(),
        "redirect_uri": "https://bot.example/cb?a=1",
        "code_verifier": VERIFIER.reveal(),
    }


async def test_refresh_sends_the_refresh_token(server: ScriptedServer, connect: Connect) -> None:
    assert await connect().refresh(REFRESH) == GIVEN
    assert server.requests("/token")[0].form == {
        "grant_type": "refresh_token",
        "refresh_token": REFRESH.reveal(),
    }


async def test_basic_is_form_encoded(server: ScriptedServer, connect: Connect) -> None:
    await connect(client_id="cl:i ent").refresh(REFRESH)
    scheme, _, credentials = server.requests("/token")[0].headers["authorization"].partition(" ")
    assert scheme == "Basic"
    encoded = base64.b64decode(credentials).decode("ascii")
    assert [unquote_plus(part) for part in encoded.split(":")] == ["cl:i ent", SECRET]


async def test_post_sends_the_secret_in_the_body(server: ScriptedServer, connect: Connect) -> None:
    await connect(client_auth=ClientAuth.CLIENT_SECRET_POST).refresh(REFRESH)
    (seen,) = server.requests("/token")
    assert "authorization" not in seen.headers
    assert (seen.form["client_id"], seen.form["client_secret"]) == ("client", SECRET)
    assert seen.form["refresh_token"] == REFRESH.reveal()


async def test_public_client_only_says_its_name(server: ScriptedServer, connect: Connect) -> None:
    await connect(client_auth=ClientAuth.NONE, client_secret=None).refresh(REFRESH)
    (seen,) = server.requests("/token")
    assert "authorization" not in seen.headers
    assert seen.form["client_id"] == "client"
    assert "client_secret" not in seen.form


@pytest.mark.parametrize(
    ("key", "algorithm", "used"),
    [
        (rsa.generate_private_key(public_exponent=65537, key_size=2048), None, "RS256"),
        (rsa.generate_private_key(public_exponent=65537, key_size=2048), "PS256", "PS256"),
        (ec.generate_private_key(ec.SECP256R1()), None, "ES256"),
        (ec.generate_private_key(ec.SECP384R1()), None, "ES384"),
        (ed25519.Ed25519PrivateKey.generate(), None, "EdDSA"),
    ],
    ids=["RSA", "RSA-PSS", "P-256", "P-384", "Ed25519"],
)
async def test_private_key_jwt(
    server: ScriptedServer, connect: Connect, key: Any, algorithm: str | None, used: str
) -> None:
    pem = _pem(key)
    oauth = connect(
        client_auth=ClientAuth.PRIVATE_KEY_JWT,
        client_secret=None,
        private_key=Secret(pem),
        private_key_id="k-1",
        private_key_algorithm=algorithm,
    )
    await oauth.refresh(REFRESH)
    await oauth.revoke(REFRESH, hint="refresh_token")
    seen = [*server.requests("/token"), *server.requests("/revoke")]
    registry = SignatureRegistry(frozenset([used]))
    tokens = [
        jwt.decode(one.form["client_assertion"], read_private_key(pem), registry=registry) for one in seen
    ]
    assert len({token.claims["jti"] for token in tokens}) == 2
    for one, token in zip(seen, tokens, strict=True):
        assert one.form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        assert "client_secret" not in one.form
        assert "authorization" not in one.headers
        assert (token.header["alg"], token.header["kid"]) == (used, "k-1")
        assert token.claims["iss"] == token.claims["sub"] == "client"
        assert token.claims["aud"] == server.issuer
        assert token.claims["exp"] - token.claims["iat"] == 60
        assert abs(token.claims["iat"] - time.time()) < 60


async def test_assertion_audience_may_be_configured(server: ScriptedServer, connect: Connect) -> None:
    pem = _pem(ec.generate_private_key(ec.SECP256R1()))
    await connect(
        client_auth=ClientAuth.PRIVATE_KEY_JWT,
        private_key=Secret(pem),
        assertion_audience="https://aud.example",
    ).refresh(REFRESH)
    assertion = server.requests("/token")[0].form["client_assertion"]
    claims = jwt.decode(assertion, read_private_key(pem)).claims
    assert claims["aud"] == "https://aud.example"


async def test_no_cookie_goes_from_one_consumer_to_the_next(server: ScriptedServer, connect: Connect) -> None:
    server.on("/token", Reply(json=GIVEN, headers={"Set-Cookie": "session=someone; Path=/"}))
    oauth = connect()
    await oauth.refresh(REFRESH)
    await oauth.refresh(REFRESH)
    assert all("cookie" not in seen.headers for seen in server.seen)


async def test_proxies_of_the_environment_are_not_heeded(
    server: ScriptedServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert await connect().refresh(REFRESH) == GIVEN


async def test_connections_are_kept_and_one_the_server_closed_is_not_used(
    server: ScriptedServer, connect: Connect
) -> None:
    oauth = connect()
    await oauth.refresh(REFRESH)
    await oauth.refresh(REFRESH)
    assert server.connections == 1
    server.on("/token", Reply(json=GIVEN, keep_alive=False))
    for _ in range(5):
        assert await oauth.refresh(REFRESH) == GIVEN
        await server.all_closed()


# What comes back


@pytest.mark.parametrize("expires_in", ["30", 0, -1, None, 1.5, "soon", 10**30])
async def test_answers_are_given_as_they_are(
    server: ScriptedServer, connect: Connect, expires_in: object
) -> None:
    answer = {"access_token": "a", "expires_in": expires_in, "extra": {"deep": [1]}}
    server.on("/token", Reply(json=answer))
    assert await connect().refresh(REFRESH) == answer


async def test_answer_without_access_token_is_the_cores_to_judge(
    server: ScriptedServer, connect: Connect
) -> None:
    server.on("/token", Reply(json={"token_type": "Bearer"}))
    assert await connect().refresh(REFRESH) == {"token_type": "Bearer"}


async def test_error_beside_an_access_token_costs_nothing(server: ScriptedServer, connect: Connect) -> None:
    answer = {"access_token": "a", "error": "invalid_grant"}
    server.on("/token", Reply(json=answer))
    assert await connect().refresh(REFRESH) == answer


def _refusal(error: object, status: int = 400) -> Reply:
    return Reply(status=status, json={"error": error, "error_description": "description-canary"})


FAILURES: list[tuple[str, Reply, type[Exception], str]] = [
    # Sent, and no answer
    ("reset before reading", Reply(close="before"), AnswerLost, "did not answer"),
    ("closed after reading", Reply(close="after"), AnswerLost, "did not answer"),
    ("no HTTP", Reply(raw=b"gibberish\r\n\r\n"), AnswerLost, "did not answer"),
    ("half a head", Reply(raw=b"HTTP/1.1 200 OK\r\nContent-"), AnswerLost, "did not answer"),
    ("slow", Reply(json=GIVEN, delay=60), AnswerLost, "did not answer"),
    # A success that cannot be read
    ("HTML", Reply(body=b"<html>Welcome</html>"), AnswerLost, "cannot be read (status 200)"),
    ("empty", Reply(), AnswerLost, "cannot be read"),
    ("JSON, no object", Reply(json=["access_token"]), AnswerLost, "cannot be read"),
    ("truncated", Reply(json=GIVEN, truncate=True), AnswerLost, "cannot be read"),
    ("half a JSON", Reply(body=b'{"access_token": "a'), AnswerLost, "cannot be read"),
    ("nested without end", Reply(body=b'{"a":' * 100_000), AnswerLost, "cannot be read"),
    ("too large", Reply(json={"access_token": "a" * 1_100_000}), AnswerLost, "cannot be read"),
    ("slow body", Reply(json=GIVEN, chunk_pause=5), AnswerLost, "cannot be read"),
    ("not UTF-8", Reply(body=b'{"access_token": "\xff"}'), AnswerLost, "cannot be read"),
    # Told to come back
    ("408", Reply(status=408), ServerUnavailable, "(status 408)"),
    ("429", Reply(status=429), ServerUnavailable, "too many requests"),
    ("500", Reply(status=500), ServerUnavailable, "failed (status 500)"),
    ("502", Reply(status=502, body=b"<html>"), ServerUnavailable, "(status 502)"),
    ("503", Reply(status=503), ServerUnavailable, "(status 503)"),
    ("504", Reply(status=504), ServerUnavailable, "(status 504)"),
    ("599", Reply(status=599), ServerUnavailable, "(status 599)"),
    ("500 with an OAuth error", _refusal("invalid_grant", 500), ServerUnavailable, "(status 500)"),
    ("429 with an OAuth error", _refusal("invalid_grant", 429), ServerUnavailable, "(status 429)"),
    (
        "503, body truncated",
        Reply(status=503, body=b"busy", truncate=True),
        ServerUnavailable,
        "(status 503)",
    ),
    ("400 server_error", _refusal("server_error"), ServerUnavailable, "server_error"),
    ("400 overloaded", _refusal("temporarily_unavailable"), ServerUnavailable, "temporarily_unavailable"),
    # Redirects
    ("301", Reply(status=301, headers={"Location": "/t"}), ServerMisconfigured, "redirects"),
    ("302", Reply(status=302, headers={"Location": "/t"}), ServerMisconfigured, "redirects"),
    ("307", Reply(status=307, headers={"Location": "/t"}), ServerMisconfigured, "redirects"),
    ("308", Reply(status=308, headers={"Location": "/t"}), ServerMisconfigured, "redirects"),
    # Refused
    ("400 invalid_grant", _refusal("invalid_grant"), InvalidGrant, "invalid_grant"),
    ("401 invalid_grant", _refusal("invalid_grant", 401), InvalidGrant, "invalid_grant"),
    ("403 invalid_grant", _refusal("invalid_grant", 403), InvalidGrant, "invalid_grant"),
    ("200 invalid_grant", _refusal("invalid_grant", 200), InvalidGrant, "invalid_grant"),
    ("401 invalid_client", _refusal("invalid_client", 401), ServerMisconfigured, "invalid_client"),
    ("200 invalid_client", _refusal("invalid_client", 200), ServerMisconfigured, "invalid_client"),
    ("unauthorized_client", _refusal("unauthorized_client"), ServerMisconfigured, "unauthorized_client"),
    ("unsupported type", _refusal("unsupported_grant_type"), ServerMisconfigured, "unsupported_grant_type"),
    ("invalid_request", _refusal("invalid_request"), ServerMisconfigured, "invalid_request"),
    ("invalid_scope", _refusal("invalid_scope"), ServerMisconfigured, "invalid_scope"),
    ("error not registered", _refusal("canary_error"), ServerMisconfigured, "an unknown error"),
    ("error no string", _refusal(["invalid_grant"]), ServerMisconfigured, "an unknown error"),
    ("200, error not registered", _refusal("canary_error", 200), ServerMisconfigured, "an unknown error"),
    ("400 without error", Reply(status=400, json={}), ServerMisconfigured, "an unknown error (status 400)"),
    ("404 HTML", Reply(status=404, body=b"<html>"), ServerMisconfigured, "(status 404)"),
    ("405", Reply(status=405), ServerMisconfigured, "(status 405)"),
    ("400 truncated", Reply(status=400, json={"error": "x"}, truncate=True), AnswerLost, "cannot be read"),
]


@pytest.mark.parametrize(
    ("reply", "kind", "says"), [row[1:] for row in FAILURES], ids=[r[0] for r in FAILURES]
)
@pytest.mark.parametrize("verb", ["exchange", "refresh"])
async def test_what_each_failure_means(
    server: ScriptedServer, connect: Connect, verb: str, reply: Reply, kind: type[Exception], says: str
) -> None:
    oauth = connect(deadline=2.0 if reply.delay or reply.chunk_pause else 10.0)
    await oauth.prepare()
    server.on("/token", reply)
    with pytest.raises(kind) as caught:
        await (_exchange(oauth) if verb == "exchange" else oauth.refresh(REFRESH))
    assert type(caught.value) is kind
    assert says in str(caught.value).replace(
        ": compare the brand's settings with its client registration", ""
    )
    assert "'acme'" in str(caught.value)
    assert len(server.seen) <= 3, "never asked twice, never followed"
    _holds_no_secret(caught.value)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        ("0", 0),
        ("999999", 3600),
        ("9" * 5000, 3600),
        ("-1", None),
        ("soon", None),
        ("", None),
        ("٣", None),
    ],
)
async def test_retry_after(
    server: ScriptedServer, connect: Connect, header: str, seconds: float | None
) -> None:
    head = f"HTTP/1.1 503 Busy\r\nRetry-After: {header}\r\nContent-Length: 0\r\n\r\n"
    server.on("/token", Reply(raw=head.encode()))
    with pytest.raises(ServerUnavailable) as caught:
        await connect().refresh(REFRESH)
    assert caught.value.retry_after == (ServerUnavailable.retry_after if seconds is None else seconds)


@pytest.mark.parametrize(("ahead", "least", "most"), [(60, 50, 60), (-60, 0, 0), (10**8, 3600, 3600)])
async def test_retry_after_as_a_date(
    server: ScriptedServer, connect: Connect, ahead: float, least: float, most: float
) -> None:
    now = 1_800_000_000.0
    server.on("/token", Reply(status=429, headers={"Retry-After": formatdate(now + ahead, usegmt=True)}))
    settings = ServerSettings(server.issuer, "client", client_secret=Secret("s"), development=True)
    oauth = OAuthServer(settings, brand="acme", clock=lambda: now)
    with pytest.raises(ServerUnavailable) as caught:
        await oauth.refresh(REFRESH)
    await oauth.aclose()
    assert caught.value.retry_after is not None
    assert least <= caught.value.retry_after <= most


async def test_retry_after_of_a_misconfiguration_helps_nobody(
    server: ScriptedServer, connect: Connect
) -> None:
    server.on("/token", Reply(status=302, headers={"Location": "/", "Retry-After": "7"}))
    with pytest.raises(ServerMisconfigured) as caught:
        await connect().refresh(REFRESH)
    assert caught.value.retry_after is None


async def test_logs_hold_no_secret_however_much_is_logged(
    server: ScriptedServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    oauth = connect()
    await _exchange(oauth)
    await oauth.refresh(REFRESH)
    await oauth.revoke(REFRESH, hint="refresh_token")
    assert "/token" in caplog.text
    assert "canary" not in caplog.text
    credentials = server.requests("/token")[0].headers["authorization"].removeprefix("Basic ")
    assert credentials not in caplog.text


# Never sent


async def test_refused_connection_was_never_sent(server: ScriptedServer, connect: Connect) -> None:
    oauth = connect()
    await oauth.prepare()
    await server.stop()
    await _never_sent(oauth)


async def test_unknown_host_was_never_sent() -> None:
    settings = ServerSettings(
        "https://as.invalid",
        "client",
        client_secret=Secret(SECRET),
        authorization_endpoint="https://as.invalid/authorize",
        token_endpoint="https://as.invalid/token",
    )
    oauth = OAuthServer(settings, brand="acme")
    await _never_sent(oauth)
    await oauth.aclose()


async def test_handshake_that_never_ends_was_never_sent() -> None:
    """The peer accepts the connection and says nothing: no TLS session, no request."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        oauth = _explicit(f"https://127.0.0.1:{listener.getsockname()[1]}", deadline=0.3)
        await _never_sent(oauth)
        await oauth.aclose()


async def test_tls_that_is_none_was_never_sent(server: ScriptedServer) -> None:
    oauth = _explicit(server.url.replace("http:", "https:"))
    await _never_sent(oauth)
    await oauth.aclose()


async def test_waiting_for_a_free_connection_was_never_sent(server: ScriptedServer, connect: Connect) -> None:
    oauth = connect(deadline=4.0)
    await oauth.prepare()
    server.on("/token", Reply(delay=60))
    results = await asyncio.gather(*(oauth.refresh(REFRESH) for _ in range(60)), return_exceptions=True)
    kinds = [type(result) for result in results]
    assert kinds.count(AnswerLost) == len(server.requests("/token")) == 50
    assert kinds.count(ServerUnavailable) == 10


async def test_request_that_leaves_no_time_for_its_answer_is_not_sent(server: ScriptedServer) -> None:
    now = asyncio.get_running_loop().time()
    async with new_client(None, deadline=10) as client:
        url = server.url + "/token"
        late = await send(client, "POST", url, until=now + 10, send_by=now - 1, limit=1000, form={"a": "b"})
        assert late is Miss.UNSENT
        assert server.seen == []
        answer = await send(client, "POST", url, until=now + 10, send_by=now + 9, limit=1000)
        assert isinstance(answer, Answer)


async def test_untrusted_certificate_is_the_operators_problem(tmp_path: Path) -> None:
    ca = DevelopmentCA.create("test CA")
    async with ScriptedServer(tls=_server_tls(ca, tmp_path, ips=["127.0.0.1"])) as server:
        oauth = _explicit(server.url)
        with pytest.raises(ServerMisconfigured, match="set ca_file") as caught:
            await oauth.refresh(REFRESH)
        _holds_no_secret(caught.value)
        await oauth.aclose()
        discovering = _oauth(server)
        with pytest.raises(ServerMisconfigured, match="set ca_file"):
            await discovering.prepare()
        await discovering.aclose()
        assert server.seen == []


async def test_certificate_of_another_name_is_the_operators_problem(tmp_path: Path) -> None:
    ca = DevelopmentCA.create("test CA")
    (tmp_path / "ca.pem").write_bytes(ca.certificate_pem)
    async with ScriptedServer(tls=_server_tls(ca, tmp_path, dns=["as.example"])) as server:
        oauth = _explicit(server.url, ca_file=tmp_path / "ca.pem")
        with pytest.raises(ServerMisconfigured, match="certificate"):
            await oauth.refresh(REFRESH)
        await oauth.aclose()
        assert server.seen == []


async def test_https_with_the_brands_own_ca(tmp_path: Path) -> None:
    ca = DevelopmentCA.create("test CA")
    (tmp_path / "ca.pem").write_bytes(ca.certificate_pem)
    async with ScriptedServer(tls=_server_tls(ca, tmp_path, ips=["127.0.0.1"])) as server:
        server.on("/token", Reply(json=GIVEN))
        oauth = _oauth(server, ca_file=tmp_path / "ca.pem", development=False)
        assert (await oauth.prepare()).issuer == server.issuer
        assert await oauth.refresh(REFRESH) == GIVEN
        await oauth.aclose()


# Deadlines


async def test_one_deadline_for_metadata_and_answer(server: ScriptedServer, connect: Connect) -> None:
    discovery = Reply(json=server.metadata, delay=0.3)
    server.on("/.well-known/openid-configuration", discovery)
    server.on("/token", Reply(delay=60))
    started = time.monotonic()
    with pytest.raises(AnswerLost):
        await connect(deadline=3.0).refresh(REFRESH)
    assert time.monotonic() - started < 30


async def test_slow_discovery_was_never_sent(server: ScriptedServer, connect: Connect) -> None:
    server.on("/.well-known/openid-configuration", Reply(delay=60))
    await _never_sent(connect(deadline=0.4))


async def test_cancelled_call_is_cancelled(server: ScriptedServer, connect: Connect) -> None:
    server.on("/token", Reply(delay=60))
    call = asyncio.create_task(connect().refresh(REFRESH))
    await server.arrived("/token")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


# Revocation


@pytest.mark.parametrize("hint", ["access_token", "refresh_token"])
async def test_revoke(server: ScriptedServer, connect: Connect, hint: str) -> None:
    await connect().revoke(REFRESH, hint=hint)
    (seen,) = server.requests("/revoke")
    assert seen.form == {"token": REFRESH.reveal(), "token_type_hint": hint}
    assert seen.headers["authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=b"<html>fine</html>"),
        Reply(status=204),
        _refusal("unsupported_token_type"),
        _refusal("invalid_grant"),
    ],
)
async def test_nothing_left_to_revoke(server: ScriptedServer, connect: Connect, reply: Reply) -> None:
    server.on("/revoke", reply)
    await connect().revoke(REFRESH, hint="refresh_token")


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(status=503, headers={"Retry-After": "7"}), ServerUnavailable),
        (Reply(close="after"), AnswerLost),
        (_refusal("invalid_client", 401), ServerMisconfigured),
        (Reply(status=404), ServerMisconfigured),
        (Reply(status=302, headers={"Location": "/"}), ServerMisconfigured),
    ],
)
async def test_revocation_that_failed(
    server: ScriptedServer, connect: Connect, reply: Reply, kind: type[Exception]
) -> None:
    server.on("/revoke", reply)
    with pytest.raises(kind) as caught:
        await connect().revoke(REFRESH, hint="refresh_token")
    assert type(caught.value) is kind
    _holds_no_secret(caught.value)


async def test_server_without_revocation(server: ScriptedServer, connect: Connect) -> None:
    del server.metadata["revocation_endpoint"]
    oauth = connect()
    assert not (await oauth.prepare()).revokes
    await oauth.revoke(REFRESH, hint="refresh_token")
    assert server.requests("/revoke") == []


# Metadata


async def test_prepare_tells_the_facts_and_fetches_the_keys(server: ScriptedServer, connect: Connect) -> None:
    oauth = connect()
    assert oauth.facts is None
    facts = await oauth.prepare(keys=True)
    assert oauth.facts == facts
    assert (facts.issuer, facts.sends_iss, facts.revokes) == (server.issuer, True, True)
    assert len(server.requests("/jwks")) == 1
    await server.stop()
    assert await oauth.prepare(keys=True) == facts
    token = Secret(server.mint())
    claims = await oauth.verify_id_token(token, nonce=Secret("n-1"), now=time.time())
    assert claims.subject == "alice"


async def test_prepare_without_keys_to_have(server: ScriptedServer, connect: Connect) -> None:
    del server.metadata["jwks_uri"]
    oauth = connect()
    await oauth.prepare()
    with pytest.raises(ServerMisconfigured, match="no keys to verify id tokens with"):
        await oauth.verify_id_token(Secret(server.mint()), nonce=None, now=time.time())


async def test_prepare_fails_where_the_server_is_away(server: ScriptedServer, connect: Connect) -> None:
    await server.stop()
    with pytest.raises(ServerUnavailable):
        await connect().prepare()


async def test_prepare_refuses_the_document_of_another_issuer(
    server: ScriptedServer, connect: Connect
) -> None:
    server.metadata["issuer"] = "https://evil.example"
    oauth = connect()
    with pytest.raises(ServerMisconfigured):
        await oauth.prepare()
    with pytest.raises(ServerMisconfigured):
        await oauth.refresh(REFRESH)
    assert server.requests("/token") == []


async def test_explicit_endpoints_fetch_nothing(server: ScriptedServer) -> None:
    server.on("/token", Reply(json=GIVEN))
    keys = json.dumps({"keys": [key.as_dict(private=False) for key in server.keys]})
    oauth = _explicit(server.url, development=True, static_keys=keys, sends_iss=True)
    facts = await oauth.prepare()
    assert (facts.issuer, facts.sends_iss, facts.revokes) == (server.url, True, False)
    assert await oauth.refresh(REFRESH) == GIVEN
    claims = await oauth.verify_id_token(Secret(server.mint()), nonce=None, now=time.time())
    assert claims.subject == "alice"
    await oauth.aclose()
    assert [seen.path for seen in server.seen] == ["/token"]


async def test_configured_endpoint_wins_over_a_discovered_one(
    server: ScriptedServer, connect: Connect
) -> None:
    oauth = connect(revocation_endpoint=server.url + "/other-revoke", sends_iss=False)
    server.on("/other-revoke", Reply())
    assert not (await oauth.prepare()).sends_iss
    await oauth.revoke(REFRESH, hint="refresh_token")
    assert len(server.requests("/other-revoke")) == 1


async def test_bad_id_token(server: ScriptedServer, connect: Connect) -> None:
    with pytest.raises(InvalidIdToken, match="'acme'"):
        await connect().verify_id_token(Secret(server.mint("aud")), nonce=Secret("n-1"), now=time.time())


# The link


async def test_link_for_the_browser(server: ScriptedServer, connect: Connect) -> None:
    url = urlsplit(
        await connect().authorization_url(_request(parameters={"prompt": "consent", "login_hint": ""}))
    )
    assert f"{url.scheme}://{url.netloc}{url.path}" == server.url + "/authorize"
    assert "+" not in url.query, "a space is %20: not every server reads a plus as one"
    assert dict(parse_qsl(url.query)) == {
        "response_type": "code",
        "client_id": "client",
        "redirect_uri": "https://bot.example/cb?a=1",
        "scope": "openid profile",
        "state": "state-1",
        "nonce": "nonce-1",
        "code_challenge": "challenge-1",
        "code_challenge_method": "S256",
        "prompt": "consent",
    }


async def test_link_keeps_the_endpoints_own_query_and_names_nothing_twice(
    server: ScriptedServer, connect: Connect
) -> None:
    server.metadata["authorization_endpoint"] = (
        server.url
        + "/authorize?tenant=a%26b&empty=&response_type=token&client_id=evil&prompt=none&request=jar"
    )
    url = urlsplit(await connect().authorization_url(_request(parameters={"prompt": "consent"})))
    pairs = parse_qsl(url.query, keep_blank_values=True)
    assert len({name for name, _ in pairs}) == len(pairs)
    sent = dict(pairs)
    assert (sent["tenant"], sent["empty"], sent["prompt"]) == ("a&b", "", "consent")
    assert (sent["response_type"], sent["client_id"]) == ("code", "client")
    assert "request" not in sent


async def test_parameters_cannot_override_the_protocols(server: ScriptedServer, connect: Connect) -> None:
    plain = await connect().authorization_url(_request())
    names = [name for name, _ in parse_qsl(urlsplit(plain).query)]
    hostile = dict.fromkeys([*names, "request", "request_uri"], "evil")
    assert await connect().authorization_url(_request(parameters=hostile)) == plain


async def test_link_without_scopes(server: ScriptedServer, connect: Connect) -> None:
    assert "scope=" not in await connect().authorization_url(_request(scopes=()))


# Settings


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"issuer": "http://as.example"}, "issuer: not https"),
        ({"issuer": "https://as.example?x=1"}, "issuer: holds a query"),
        ({"issuer": "https://as.example#x"}, "issuer: "),
        ({"token_endpoint": "https://as.example/t"}, "give both"),
        ({"authorization_endpoint": "https://as.example/a"}, "give both"),
        ({"revocation_endpoint": "http://127.0.0.1/r"}, "revocation_endpoint: not https"),
        ({"jwks_uri": "jwks.json"}, "jwks_uri: not an absolute https URL"),
        ({"id_token_algorithms": ("HS256", "none")}, "not allowed: HS256, none"),
        ({"id_token_algorithms": ()}, "id_token_algorithms: none"),
        ({"client_secret": None}, "client_secret: client_secret_basic needs one"),
        ({"client_auth": ClientAuth.PRIVATE_KEY_JWT}, "private_key: private_key_jwt needs one"),
        ({"static_keys": "nonsense"}, "static_keys: holds neither"),
        ({"ca_file": Path("/nowhere/ca.pem")}, "ca_file /nowhere/ca.pem"),
    ],
)
def test_wrong_settings(given: dict[str, Any], says: str) -> None:
    settings = {"issuer": "https://as.example", "client_id": "client", "client_secret": Secret("s"), **given}
    with pytest.raises(ValueError, match=says):
        OAuthServer(ServerSettings(**settings), brand="acme")


def test_unusable_private_key_is_not_quoted() -> None:
    key = _pem(ec.generate_private_key(ec.SECP256R1()))
    weak = _pem(rsa.generate_private_key(public_exponent=65537, key_size=1024))
    for pem, algorithm in (
        ("key-canary", None),
        (key[:80], None),
        (key, "RS256"),
        (key, "HS256"),
        (weak, None),
    ):
        settings = ServerSettings(
            "https://as.example",
            "client",
            client_auth=ClientAuth.PRIVATE_KEY_JWT,
            private_key=Secret(pem),
            private_key_algorithm=algorithm,
        )
        with pytest.raises(ValueError, match="private") as caught:
            OAuthServer(settings, brand="acme")
        told = "".join(traceback.format_exception(caught.value))
        assert caught.value.__context__ is None
        assert "canary" not in told
        assert key[40:70] not in told


def test_settings_show_no_secret() -> None:
    settings = ServerSettings(
        "https://as.example", "client", client_secret=Secret(SECRET), static_keys="x-canary"
    )
    assert "canary" not in repr(settings)


# The loop


def test_runs_on_uvloop_too(tmp_path: Path) -> None:
    async def play() -> None:
        ca = DevelopmentCA.create("test CA")
        (tmp_path / "ca.pem").write_bytes(ca.certificate_pem)
        async with ScriptedServer(tls=_server_tls(ca, tmp_path, ips=["127.0.0.1"])) as server:
            oauth = _oauth(server, ca_file=tmp_path / "ca.pem", deadline=3.0)
            await oauth.prepare()
            server.on("/token", Reply(json=GIVEN))
            for _ in range(3):
                assert await oauth.refresh(REFRESH) == GIVEN
            assert server.connections == 1
            for reply, kind in (
                (Reply(delay=60), AnswerLost),
                (Reply(close="before"), AnswerLost),
                (Reply(close="after"), AnswerLost),
                (Reply(status=503), ServerUnavailable),
                (_refusal("invalid_grant"), InvalidGrant),
            ):
                server.on("/token", reply)
                with pytest.raises(kind) as caught:
                    await oauth.refresh(REFRESH)
                assert type(caught.value) is kind
            await server.stop()
            await _never_sent(oauth)
            await oauth.aclose()
            stranger = _explicit(server.url)
            await _never_sent(stranger)
            await stranger.aclose()
        async with ScriptedServer() as server:
            oauth = _oauth(server)
            server.on("/token", Reply(json=GIVEN, keep_alive=False))
            for _ in range(3):
                assert await oauth.refresh(REFRESH) == GIVEN
                await server.all_closed()
            await oauth.aclose()
        async with ScriptedServer(tls=_server_tls(ca, tmp_path, ips=["127.0.0.1"])) as server:
            stranger = _explicit(server.url)
            with pytest.raises(ServerMisconfigured, match="ca_file"):
                await stranger.refresh(REFRESH)
            await stranger.aclose()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play())


def _explicit(url: str, **given: Any) -> OAuthServer:
    settings: dict[str, Any] = {
        "issuer": url,
        "client_id": "client",
        "client_secret": Secret(SECRET),
        "authorization_endpoint": url + "/authorize",
        "token_endpoint": url + "/token",
        **given,
    }
    return OAuthServer(ServerSettings(**settings), brand="acme")


def _request(**given: Any) -> AuthorizationRequest:
    fields: dict[str, Any] = {
        "redirect_uri": "https://bot.example/cb?a=1",
        "scopes": ("openid", "profile"),
        "state": Secret("state-1"),
        "nonce": Secret("nonce-1"),
        "code_challenge": "challenge-1",
        **given,
    }
    return AuthorizationRequest(**fields)


async def _never_sent(oauth: OAuthServer) -> None:
    with pytest.raises(ServerUnavailable) as caught:
        await oauth.refresh(REFRESH)
    assert type(caught.value) is ServerUnavailable, "nothing was lost: nothing was sent"
    assert "'acme'" in caught.value.message
    _holds_no_secret(caught.value)


def _holds_no_secret(error: BaseException) -> None:
    """Neither what is printed nor what hangs on the exception."""
    assert error.__context__ is None
    assert error.__cause__ is None
    told = "".join(traceback.format_exception(error)) + str(error) + repr(error) + repr(vars(error))
    assert "canary" not in told.replace('"canary"', "")
    assert base64.b64encode(SECRET.encode()).decode() not in told


def _pem(key: Any) -> str:
    return str(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
    )


def _server_tls(ca: DevelopmentCA, folder: Path, **names: Any) -> ssl.SSLContext:
    issued = ca.issue(name="as", **names)
    (folder / "server.pem").write_bytes(issued.certificate_pem)
    (folder / "server.key").write_bytes(issued.private_key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    return context
