"""A record opens where it was sealed, and nowhere else."""

from dataclasses import replace

import pytest

from tests.core.world import ALICE, CHAT, START, keyring
from tokenvault_sidecar.core.errors import StoreUnavailable
from tokenvault_sidecar.core.model import Context, ContextKind, Delegation, Grant, Secret, Session, TokenSet
from tokenvault_sidecar.core.ports import GrantRow, RevocationRow
from tokenvault_sidecar.core.sealing import Keyring, Sealer

KEY = b"k" * 32
GRANT = Grant(
    brand="acme",
    kind=ContextKind.CONSUMER,
    family="f1",
    tokens=TokenSet(
        version="v1",
        access_token=Secret("access-ünï"),
        token_type="Bearer",
        scopes=("openid", "api:read"),
        issued_at=START,
        expires_at=START + 300,
        refresh_token=Secret("refresh"),
        id_token=Secret("id"),
        id_token_expires_at=START + 60,
    ),
    subject="sub-1",
    session=Session(START + 3600, 600.0, START),
)
CHAT_GRANT = Grant(
    brand="acme",
    kind=ContextKind.CONVERSATION,
    family="f2",
    tokens=TokenSet("v1", Secret("a"), "Bearer", (), START, None),
    ends_at=START + 60,
)


@pytest.fixture
def sealer() -> Sealer:
    return Sealer(keyring())


def row_of(sealer: Sealer, grant: Grant = GRANT) -> GrantRow:
    sealed = sealer.seal_grant(KEY, grant)
    return GrantRow(KEY, grant.brand, grant.kind, grant.tokens.version, sealed, purge_at=0.0)


@pytest.mark.parametrize("grant", [GRANT, CHAT_GRANT])
def test_a_grant_opens_as_it_was_sealed(sealer: Sealer, grant: Grant) -> None:
    row = row_of(sealer, grant)
    assert sealer.open_grant(row) == grant
    for secret in (b"access-", b"refresh", b"sub-1", b"openid"):
        assert secret not in row.sealed


@pytest.mark.parametrize(
    "moved",
    [
        {"key": b"x" * 32},
        {"brand": "other"},
        {"kind": ContextKind.CONVERSATION},
        {"version": "v0"},
    ],
)
def test_a_row_moved_or_rolled_back_does_not_open(sealer: Sealer, moved: dict[str, object]) -> None:
    with pytest.raises(StoreUnavailable, match="not authentic"):
        sealer.open_grant(replace(row_of(sealer), **moved))  # type: ignore[arg-type]  # any field


def test_any_changed_byte_is_found(sealer: Sealer) -> None:
    row = row_of(sealer)
    for i in range(len(row.sealed)):
        changed = bytearray(row.sealed)
        changed[i] ^= 1
        with pytest.raises(StoreUnavailable):
            sealer.open_grant(replace(row, sealed=bytes(changed)))
    for length in range(0, len(row.sealed), 7):
        with pytest.raises(StoreUnavailable):
            sealer.open_grant(replace(row, sealed=row.sealed[:length]))


def test_a_record_of_another_table_does_not_open(sealer: Sealer) -> None:
    delegation = Delegation(
        "d1", "acme", ALICE, "bot", "https://r", ("s",), Secret("n"), Secret("v"), START, "sub"
    )
    row = sealer.seal_delegation(Secret("state"), delegation)
    assert sealer.open_delegation(row) == delegation
    assert row.context_key == sealer.context_key("acme", ALICE)
    with pytest.raises(StoreUnavailable):
        sealer.open_grant(GrantRow(row.key, "acme", row.kind, "", row.sealed, purge_at=0.0))


def test_a_revocation_opens_under_its_id_only(sealer: Sealer) -> None:
    sealed = sealer.seal_revocation("r1", "acme", Secret("token"), "refresh_token")
    row = RevocationRow("r1", "acme", START, START, sealed)
    assert sealer.open_revocation(row) == (Secret("token"), "refresh_token")
    with pytest.raises(StoreUnavailable):
        sealer.open_revocation(replace(row, id="r2"))


def test_a_missing_data_key_is_named_as_such(sealer: Sealer) -> None:
    other = Sealer(Keyring(index_key=b"i" * 32, data_keys={"d2": b"d" * 32}, active="d2"))
    with pytest.raises(StoreUnavailable, match="data key"):
        other.open_grant(row_of(sealer))


def test_records_sealed_by_an_older_data_key_open() -> None:
    keys = {"d1": b"1" * 32, "d2": b"2" * 32}
    old = Sealer(Keyring(index_key=b"i" * 32, data_keys={"d1": keys["d1"]}, active="d1"))
    new = Sealer(Keyring(index_key=b"i" * 32, data_keys=keys, active="d2"))
    assert new.open_grant(row_of(old)) == GRANT
    with pytest.raises(StoreUnavailable):
        old.open_grant(row_of(new))


def test_row_keys_are_blind_and_never_the_same_for_two_contexts(sealer: Sealer) -> None:
    keys = {
        sealer.context_key("acme", ALICE),
        sealer.context_key("acme", CHAT),
        sealer.context_key("acm", Context(ContextKind.CONSUMER, "ealice")),
        sealer.context_key("acme", Context(ContextKind.CONVERSATION, "alice")),
        sealer.context_key("other", ALICE),
        Sealer(keyring()).context_key("acme", ALICE),
    }
    assert len(keys) == 6
    assert all(len(key) == 32 and b"alice" not in key for key in keys)
    assert sealer.context_key("acme", ALICE) == sealer.context_key("acme", ALICE)


def test_secrets_do_not_show() -> None:
    shown = f"{Secret('hush')!r} {Secret('hush')} {GRANT!r} {keyring()!r} {ALICE!r}"
    for hidden in ("hush", "access-", "refresh'", "sub-1", "alice"):
        assert hidden not in shown
    with pytest.raises(TypeError):
        __import__("pickle").dumps(Secret("hush"))
