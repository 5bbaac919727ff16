"""One table of errors: the proto's enum, the code's reasons, the error tree and the statuses agree."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # typed, but unmarked

import tests
from tokenvault.v1.error_reason_pb2 import ErrorReason
from tokenvault_sidecar.api.status import CODES, DOMAIN, NO_RETRY, abort, to_status
from tokenvault_sidecar.core.errors import (
    GrantNotFound,
    InvalidRequest,
    RateLimited,
    Reason,
    StoreUnavailable,
    VaultError,
)

PROTO = Path(tests.__file__).parents[1] / "proto/tokenvault/v1/error_reason.proto"
ENUM_VALUE = re.compile(r"((?:^ *//.*\n)+) *ERROR_REASON_(\w+) = \d+;", re.MULTILINE)


def descendants(error: type[VaultError]) -> Iterator[type[VaultError]]:
    for child in error.__subclasses__():
        yield child
        yield from descendants(child)


def concrete() -> list[type[VaultError]]:
    """The classes that say a reason; the others only group."""
    return [error for error in descendants(VaultError) if error.reason is not Reason.INTERNAL]


def test_every_reason_is_in_the_proto_the_table_and_the_error_tree() -> None:
    prefix = "ERROR_REASON_"
    wire = {name.removeprefix(prefix) for name in ErrorReason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118 no dict
    assert wire == {reason.value for reason in Reason}
    assert set(CODES) == set(Reason)
    assert {error.reason for error in concrete()} == set(Reason) - {Reason.INTERNAL}


def test_every_class_without_a_reason_has_children_that_have_one() -> None:
    for error in descendants(VaultError):
        assert error.reason is not Reason.INTERNAL or error.__subclasses__(), error


def test_the_proto_names_each_reasons_status_code() -> None:
    comments = {name: comment for comment, name in ENUM_VALUE.findall(PROTO.read_text())}
    assert set(comments) == {reason.value for reason in Reason} | {"UNSPECIFIED"}
    for reason, code in CODES.items():
        assert comments[reason.value].strip().startswith(f"// {code.name}: "), reason


def test_where_waiting_helps_every_error_says_so() -> None:
    """UNAVAILABLE and RESOURCE_EXHAUSTED have RetryInfo, and nothing else has."""
    transient = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}
    for error in concrete():
        assert (error.retry_after is not None) == (CODES[error.reason] in transient), error


def test_an_error_carries_its_reason_and_message() -> None:
    status = to_status(GrantNotFound("brand 'acme' has none"))
    info = error_details_pb2.ErrorInfo()
    assert (status.code, status.message) == (grpc.StatusCode.NOT_FOUND.value[0], "brand 'acme' has none")
    assert len(status.details) == 1
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason) == (DOMAIN, "GRANT_NOT_FOUND")


@pytest.mark.parametrize(("seconds", "nanos"), [(0.0, 0), (1.5, 500_000_000), (0.0001, 1_000_000)])
def test_what_passes_says_when_to_retry(seconds: float, nanos: int) -> None:
    status = to_status(RateLimited("too many", retry_after=seconds))
    retry = error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(retry)
    assert (retry.retry_delay.seconds, retry.retry_delay.nanos) == (int(seconds), nanos)


def test_a_wrong_field_is_named() -> None:
    status = to_status(InvalidRequest("brand_id", "is missing"))
    bad = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(bad)
    assert [(v.field, v.description) for v in bad.field_violations] == [("brand_id", "is missing")]


async def test_clients_do_not_repeat_by_themselves_what_reached_us() -> None:
    """RetryInfo says when it pays; a retry policy, which does not read it, is told not to."""
    ended: list[grpc.Status] = []

    class Context:
        async def abort_with_status(self, status: grpc.Status) -> None:
            ended.append(status)

    for error in (StoreUnavailable("full"), GrantNotFound("none")):
        await abort(cast(Any, Context()), error)
    assert [NO_RETRY in (status.trailing_metadata or ()) for status in ended] == [True, False]
