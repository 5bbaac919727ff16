"""How the public API types, for mypy to check; nothing here runs."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import assert_type

import grpc

from tokenvault import (
    AsyncTokenVaultClient,
    Challenge,
    ClientCredentials,
    Confirmation,
    ConsentRequired,
    Delegated,
    FieldViolation,
    GrantExpired,
    GrantNotFound,
    InvalidRequest,
    Revocation,
    SessionEnded,
    Token,
    TokenVaultClient,
    TokenVaultError,
)


def synchronous(query: Mapping[str, str]) -> None:
    with TokenVaultClient(
        "unix:/run/vault.sock", ca="ca.pem", certificate=Path("bot.pem"), private_key="bot.key", timeout=5
    ) as vault:
        assert_type(vault, TokenVaultClient)
        assert_type(vault.start_delegation("acme", consumer="alice", scopes=["orders"]), Challenge)
        completed = assert_type(vault.complete_delegation(query), Delegated)
        assert_type(completed.confirmation, Confirmation | None)
        assert_type(vault.confirm_delegation("d-1", "1234 5678", timeout=1.5), Delegated)
        assert_type(vault.complete_delegation(state="s", code="c", iss=None, timeout=1.5), Delegated)
        token = assert_type(vault.get_token("acme", conversation="c-42", scopes="orders profile"), Token)
        assert_type(token.authorization_header, str)
        assert_type(token.expire_time, datetime | None)
        assert_type(token.scopes, tuple[str, ...])
        assert_type(token.id_token, str | None)
        assert_type(vault.invalidate("acme", consumer="alice"), Revocation)
        vault.get_token(consumer="alice")  # type: ignore[call-arg]  # no brand
        vault.get_token("acme", "alice")  # type: ignore[call-arg]  # which kind of context?
        token.access_token = "x"  # type: ignore[misc]  # frozen


async def asynchronous(query: Mapping[str, str]) -> None:
    async with AsyncTokenVaultClient.from_environment(server_name="vault.test") as vault:
        assert_type(vault, AsyncTokenVaultClient)
        assert_type(await vault.start_delegation("acme", consumer="alice"), Challenge)
        assert_type(await vault.complete_delegation(query), Delegated)
        assert_type(await vault.confirm_delegation("d-1", "1234 5678"), Delegated)
        assert_type(await vault.get_token("acme", conversation="c-42", min_ttl=30), Token)
        assert_type(await vault.invalidate("acme", consumer="alice"), Revocation)


def with_credentials() -> None:
    credentials = ClientCredentials(
        token_endpoint="https://a.example/token", client_id="shop", client_secret="x", scope=["a", "b"]
    )
    assert_type(TokenVaultClient.from_environment(credentials=credentials), TokenVaultClient)
    assert_type(credentials.token(5.0), str)
    ClientCredentials("https://a.example/token", client_id="shop")  # type: ignore[call-arg]  # all by name


def errors(error: TokenVaultError, invalid: InvalidRequest) -> None:
    assert_type(error.reason, str | None)
    assert_type(error.code, grpc.StatusCode)
    assert_type(error.message, str)
    assert_type(error.retry_after, float | None)
    assert_type(invalid.field_violations, tuple[FieldViolation, ...])
    family: list[type[ConsentRequired]] = [GrantNotFound, GrantExpired, SessionEnded]
    assert family
