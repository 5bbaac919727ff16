"""Token responses: strict after an exchange, keeping what can be kept after a redemption."""

from typing import Any

import pytest

from tests.core.world import START as NOW
from tokenvault_sidecar.core.model import Secret, TokenSet
from tokenvault_sidecar.core.responses import UnusableAnswer, id_token, read_exchange, read_renewal

GOOD: dict[str, Any] = {"access_token": "a", "token_type": "Bearer", "expires_in": 60}
PREVIOUS = TokenSet(
    "v0", Secret("old"), "Bearer", ("x", "y"), NOW - 100, NOW, Secret("r0"), Secret("id0"), NOW + 5
)


def exchange(**changes: Any) -> TokenSet:
    answer = {k: v for k, v in (GOOD | changes).items() if v is not ...}
    return read_exchange(answer, version="v1", scopes=("asked",), now=NOW)


def renewal(**changes: Any) -> TokenSet:
    answer = {k: v for k, v in (GOOD | changes).items() if v is not ...}
    return read_renewal(answer, previous=PREVIOUS, version="v1", now=NOW)


@pytest.mark.parametrize(
    ("value", "expires_at"),
    [(60, NOW + 60), ("60", NOW + 60), (59.5, NOW + 59.5), (..., None), (10**30, NOW + 10 * 365 * 86400)],
)
def test_expires_in(value: object, expires_at: float | None) -> None:
    assert exchange(expires_in=value).expires_at == expires_at
    assert renewal(expires_in=value).expires_at == expires_at


@pytest.mark.parametrize("value", [0, -1, "0", "-5", "soon", "", None, True, [], {}, "nan", "inf", 10**400])
def test_an_unusable_expires_in_refuses_an_exchange_and_costs_no_renewal(value: object) -> None:
    with pytest.raises(UnusableAnswer, match=r"expires_in|expired"):
        exchange(expires_in=value)
    assert renewal(expires_in=value).expires_at in (None, NOW)


@pytest.mark.parametrize("value", [..., None, "", 7, [], "two words", "line\nbreak", "ünï"])
def test_no_access_token_is_refused_either_way(value: object) -> None:
    with pytest.raises(UnusableAnswer, match="access_token"):
        exchange(access_token=value)
    with pytest.raises(UnusableAnswer, match="access_token"):
        renewal(access_token=value)


@pytest.mark.parametrize("value", [..., None, "", "DPoP", "mac", 7])
def test_another_token_type_refuses_an_exchange(value: object) -> None:
    with pytest.raises(UnusableAnswer, match="token_type"):
        exchange(token_type=value)
    assert renewal(token_type=value).token_type == "Bearer"


def test_token_type_is_case_insensitive() -> None:
    assert exchange(token_type="bEARER").token_type == "Bearer"


def test_scopes_are_as_asked_where_the_answer_says_nothing() -> None:
    assert exchange().scopes == ("asked",)
    assert exchange(scope="b a").scopes == ("b", "a")
    assert exchange(scope="").scopes == ()
    with pytest.raises(UnusableAnswer, match="scope"):
        exchange(scope=["a"])
    assert renewal().scopes == ("x", "y")
    assert renewal(scope="x").scopes == ("x",)
    assert renewal(scope=["x"]).scopes == ("x", "y")


def test_a_rotated_refresh_token_replaces_the_old_an_omitted_one_keeps_it() -> None:
    assert renewal(refresh_token="r1").refresh_token == Secret("r1")
    for kept in (..., None, "", 7, "\ud800", "two words"):
        assert renewal(refresh_token=kept).refresh_token == Secret("r0")
    assert exchange().refresh_token is None


def test_a_renewed_id_token_is_not_taken_over_unverified() -> None:
    renewed = renewal(id_token="id1")
    assert renewed.id_token == Secret("id0")
    assert renewed.id_token_expires_at == NOW + 5
    assert id_token({"id_token": "id1"}) == Secret("id1")


def test_what_is_wrong_is_said_without_values() -> None:
    with pytest.raises(UnusableAnswer) as error:
        exchange(access_token="can ary")
    assert "ary" not in str(error.value)
