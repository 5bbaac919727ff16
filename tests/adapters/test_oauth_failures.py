"""What each answer means, over real sockets."""

import logging
from email.utils import formatdate

import pytest

from tests.adapters.oauth_world import GIVEN, REFRESH, Connect, exchange, holds_no_secret, refusal
from tests.authserver.scripted import Reply, ScriptedServer
from tokenvault_sidecar.adapters.oauth import OAuthServer, ServerSettings
from tokenvault_sidecar.core.errors import AnswerLost, InvalidGrant, ServerMisconfigured, ServerUnavailable
from tokenvault_sidecar.core.model import Secret


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
    ("500 with an OAuth error", refusal("invalid_grant", 500), ServerUnavailable, "(status 500)"),
    ("429 with an OAuth error", refusal("invalid_grant", 429), ServerUnavailable, "(status 429)"),
    (
        "503, body truncated",
        Reply(status=503, body=b"busy", truncate=True),
        ServerUnavailable,
        "(status 503)",
    ),
    ("400 server_error", refusal("server_error"), ServerUnavailable, "server_error"),
    ("400 overloaded", refusal("temporarily_unavailable"), ServerUnavailable, "temporarily_unavailable"),
    # Redirects
    ("301", Reply(status=301, headers={"Location": "/t"}), ServerMisconfigured, "redirects"),
    ("302", Reply(status=302, headers={"Location": "/t"}), ServerMisconfigured, "redirects"),
    ("307", Reply(status=307, headers={"Location": "/t"}), ServerMisconfigured, "redirects"),
    ("308", Reply(status=308, headers={"Location": "/t"}), ServerMisconfigured, "redirects"),
    # Refused
    ("400 invalid_grant", refusal("invalid_grant"), InvalidGrant, "invalid_grant"),
    ("401 invalid_grant", refusal("invalid_grant", 401), InvalidGrant, "invalid_grant"),
    ("403 invalid_grant", refusal("invalid_grant", 403), InvalidGrant, "invalid_grant"),
    ("200 invalid_grant", refusal("invalid_grant", 200), InvalidGrant, "invalid_grant"),
    ("401 invalid_client", refusal("invalid_client", 401), ServerMisconfigured, "invalid_client"),
    ("200 invalid_client", refusal("invalid_client", 200), ServerMisconfigured, "invalid_client"),
    ("unauthorized_client", refusal("unauthorized_client"), ServerMisconfigured, "unauthorized_client"),
    ("unsupported type", refusal("unsupported_grant_type"), ServerMisconfigured, "unsupported_grant_type"),
    ("invalid_request", refusal("invalid_request"), ServerMisconfigured, "invalid_request"),
    ("invalid_scope", refusal("invalid_scope"), ServerMisconfigured, "invalid_scope"),
    ("error not registered", refusal("canary_error"), ServerMisconfigured, "an unknown error"),
    ("error no string", refusal(["invalid_grant"]), ServerMisconfigured, "an unknown error"),
    ("200, error not registered", refusal("canary_error", 200), ServerMisconfigured, "an unknown error"),
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
        await (exchange(oauth) if verb == "exchange" else oauth.refresh(REFRESH))
    assert type(caught.value) is kind
    assert says in str(caught.value).replace(
        ": compare the brand's settings with its client registration", ""
    )
    assert "'acme'" in str(caught.value)
    assert len(server.seen) <= 3, "never asked twice, never followed"
    holds_no_secret(caught.value)


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
    await exchange(oauth)
    await oauth.refresh(REFRESH)
    await oauth.revoke(REFRESH, hint="refresh_token")
    assert "/token" in caplog.text
    assert "canary" not in caplog.text
    credentials = server.requests("/token")[0].headers["authorization"].removeprefix("Basic ")
    assert credentials not in caplog.text
