"""Requests, checked and in the core's words. Nothing is looked up here.

What is wrong raises InvalidRequest with the field's path in the proto. No
value is repeated in it: ids are personal data, codes and states are secrets.
"""

import re
from collections.abc import Mapping
from typing import Final

from google.protobuf.duration_pb2 import Duration

from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault_sidecar.core.challenges import DelegationRequest
from tokenvault_sidecar.core.confirmation import DIGITS, read_code
from tokenvault_sidecar.core.errors import InvalidRequest
from tokenvault_sidecar.core.exchange import AuthorizationResponse
from tokenvault_sidecar.core.model import Context, ContextKind, Secret
from tokenvault_sidecar.core.policy import Allow
from tokenvault_sidecar.core.tokens import TokenRequest

MAX_ID: Final = 256
MAX_SCOPES: Final = 64
MAX_SCOPE: Final = 256
MAX_CHALLENGE_SCOPES: Final = 1024  # what comes back is in an error's metadata, of which clients take 8 KiB
MAX_PARAMETERS: Final = 16
MAX_PARAMETER: Final = 1024
MAX_URI: Final = 2048
MAX_STATE: Final = 512
MAX_CODE: Final = 4096
MAX_ERROR: Final = 256
MAX_VERSION: Final = 128
MAX_DELEGATION_ID: Final = 128
MAX_TYPED_CODE: Final = 64
MAX_MIN_TTL: Final = 3600

_BRAND: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PARAMETER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# RFC 6749 section 3.3, scope-token, and section 4.1.2.1, error.
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
_ERROR: Final = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]+")
_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+")
# C0 and C1 controls, line and paragraph separators, and what turns the direction of text: two ids that
# differ must not look the same in a log or on a screen.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")


def brand_and_context(
    request: pb.StartDelegationRequest | pb.GetTokenRequest | pb.InvalidateRequest,
) -> tuple[str, Context]:
    """Whose tokens are meant."""
    brand = request.brand_id
    if not _BRAND.fullmatch(brand):
        raise InvalidRequest("brand_id", "is no brand's id" if brand else "is missing")
    whose = request.context
    match whose.WhichOneof("kind"):
        case "consumer":
            consumer = whose.consumer.consumer_id
            _check_text("context.consumer.consumer_id", consumer, MAX_ID)
            return brand, Context(ContextKind.CONSUMER, consumer)
        case "conversation":
            conversation = whose.conversation.conversation_id
            _check_text("context.conversation.conversation_id", conversation, MAX_ID)
            return brand, Context(ContextKind.CONVERSATION, conversation)
        case _:
            raise InvalidRequest("context", "is missing: set consumer or conversation")


def scopes(
    request: pb.StartDelegationRequest | pb.GetTokenRequest | pb.ChallengeOptions, field: str = "scopes"
) -> tuple[str, ...]:
    """The scopes asked for, each once."""
    asked = request.scopes
    if not asked:
        return ()
    if len(asked) > MAX_SCOPES:
        raise InvalidRequest(field, f"more than {MAX_SCOPES}")
    for position, scope in enumerate(asked):
        if len(scope) > MAX_SCOPE or not _SCOPE.fullmatch(scope):
            raise InvalidRequest(
                f"{field}[{position}]",
                f"is no scope-token (RFC 6749 section 3.3) of at most {MAX_SCOPE} bytes",
            )
    return tuple(dict.fromkeys(asked))


def delegation_request(request: pb.StartDelegationRequest, caller: str) -> DelegationRequest:
    """A StartDelegationRequest of this caller."""
    brand, context = brand_and_context(request)
    if request.redirect_uri:
        _check_text("redirect_uri", request.redirect_uri, MAX_URI)
    if request.expected_subject:
        if context.kind is not ContextKind.CONSUMER:
            raise InvalidRequest("expected_subject", "only goes with a consumer context")
        _check_text("expected_subject", request.expected_subject, MAX_ID)
    return DelegationRequest(
        brand=brand,
        context=context,
        caller=caller,
        scopes=scopes(request),
        redirect_uri=request.redirect_uri or None,
        expected_subject=request.expected_subject or None,
        parameters=_parameters(request.authorization_parameters),
    )


def challenge_options(
    options: pb.ChallengeOptions, brand: str, context: Context, caller: str
) -> DelegationRequest:
    """What a GetTokenRequest of this caller wants to have started where there is no token."""
    if options.redirect_uri:
        _check_text("challenge.redirect_uri", options.redirect_uri, MAX_URI)
    asked = scopes(options, "challenge.scopes")
    if sum(map(len, asked)) > MAX_CHALLENGE_SCOPES:
        raise InvalidRequest("challenge.scopes", f"longer than {MAX_CHALLENGE_SCOPES} bytes together")
    return DelegationRequest(
        brand=brand,
        context=context,
        caller=caller,
        scopes=asked,
        redirect_uri=options.redirect_uri or None,
    )


def authorization_response(request: pb.CompleteDelegationRequest) -> AuthorizationResponse:
    """A CompleteDelegationRequest. `error_description` is dropped: nobody may see it."""
    _check_text("state", request.state, MAX_STATE)
    if bool(request.code) == bool(request.error):
        raise InvalidRequest("code", "set exactly one of code and error")
    if request.code:
        _check_text("code", request.code, MAX_CODE)
    if request.iss:
        _check_text("iss", request.iss, MAX_URI)
    if request.error and (len(request.error) > MAX_ERROR or not _ERROR.fullmatch(request.error)):
        raise InvalidRequest(
            "error", f"is no error code (RFC 6749 section 4.1.2.1) of at most {MAX_ERROR} bytes"
        )
    return AuthorizationResponse(
        state=Secret(request.state),
        code=Secret(request.code) if request.code else None,
        iss=request.iss or None,
        error=request.error or None,
    )


def delegation_id(request: pb.WatchDelegationRequest | pb.ConfirmDelegationRequest) -> str:
    """The delegation meant."""
    given = request.delegation_id
    if not given:
        raise InvalidRequest("delegation_id", "is missing")
    if len(given) > MAX_DELEGATION_ID or not _PRINTABLE.fullmatch(given):
        raise InvalidRequest("delegation_id", "is no delegation's id")
    return given


def confirmation_code(request: pb.ConfirmDelegationRequest) -> Secret:
    """The code, as the consumer may have typed it."""
    typed = request.confirmation_code
    code = read_code(typed) if len(typed) <= MAX_TYPED_CODE else None
    if code is None:
        raise InvalidRequest("confirmation_code", f"is not of {DIGITS} digits" if typed else "is missing")
    return code


def token_request(
    request: pb.GetTokenRequest, brand: str, context: Context, asked: tuple[str, ...], allow: Allow
) -> TokenRequest:
    """A GetTokenRequest, with what was read of it already and what its caller is allowed."""
    if request.include_id_token and context.kind is not ContextKind.CONSUMER:
        raise InvalidRequest("include_id_token", "only goes with a consumer context")
    return TokenRequest(
        brand=brand,
        context=context,
        scopes=asked,
        min_ttl=_min_ttl(request.min_ttl) if request.HasField("min_ttl") else 0.0,
        rejected_version=_version(request.rejected_token_version),
        include_id_token=request.include_id_token,
        keeps_session_alive=allow.keeps_session_alive,
        releasable=allow.scopes,
    )


def _min_ttl(span: Duration) -> float:
    # A Duration's parts have one sign, and nanoseconds stay below a second; parsing does not see to that.
    if not -1_000_000_000 < span.nanos < 1_000_000_000 or span.seconds * span.nanos < 0:
        raise InvalidRequest("min_ttl", "is no normalised Duration")
    seconds = span.seconds + span.nanos / 1e9
    if not 0 <= seconds <= MAX_MIN_TTL:
        raise InvalidRequest("min_ttl", f"is not between 0 and {MAX_MIN_TTL} seconds")
    return seconds


def _version(version: str) -> str | None:
    if not version:
        return None
    if len(version) > MAX_VERSION or not _PRINTABLE.fullmatch(version):
        raise InvalidRequest("rejected_token_version", "is no token version")
    return version


def _parameters(given: Mapping[str, str]) -> dict[str, str]:
    if len(given) > MAX_PARAMETERS:
        raise InvalidRequest("authorization_parameters", f"more than {MAX_PARAMETERS}")
    for name, value in given.items():
        if not _PARAMETER.fullmatch(name):
            raise InvalidRequest("authorization_parameters", "holds a name that is no parameter's")
        _check_text(f"authorization_parameters.{name}", value, MAX_PARAMETER)
    return dict(given)


def _check_text(field: str, value: str, limit: int) -> None:
    if not value:
        raise InvalidRequest(field, "is missing")
    # A character takes at least a byte, mostly just one: encode only where that could matter.
    if len(value) > limit or (len(value) * 4 > limit and len(value.encode()) > limit):
        raise InvalidRequest(field, f"is longer than {limit} bytes of UTF-8")
    if _CONTROL.search(value):
        raise InvalidRequest(field, "holds a control character")
