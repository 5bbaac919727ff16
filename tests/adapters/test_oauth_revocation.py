"""Revocation (RFC 7009): what is sent, and when nothing is left to revoke."""

import pytest

from tests.adapters.oauth_world import REFRESH, Connect, holds_no_secret, refusal
from tests.authserver.scripted import Reply, ScriptedServer
from tokenvault_sidecar.core.errors import AnswerLost, ServerMisconfigured, ServerUnavailable


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
        refusal("unsupported_token_type"),
        refusal("invalid_grant"),
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
        (refusal("invalid_client", 401), ServerMisconfigured),
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
    holds_no_secret(caught.value)


async def test_server_without_revocation(server: ScriptedServer, connect: Connect) -> None:
    del server.metadata["revocation_endpoint"]
    oauth = connect()
    assert not (await oauth.prepare()).revokes
    await oauth.revoke(REFRESH, hint="refresh_token")
    assert server.requests("/revoke") == []
