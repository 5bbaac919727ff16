"""Requests for any RPC, made from its descriptor: nearly right ones, extreme ones, and broken bytes."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from tests.api.running import SERVICE
from tests.core.world import ACME, ALICE, CHAT

GUESS: Final = "00000000"
"""A confirmation code that is wrong, but for once in a hundred million."""

KNOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "brand_id": (ACME.id, ACME.id, "other"),
    "consumer_id": (ALICE.id, ALICE.id, "bob"),
    "conversation_id": (CHAT.id, CHAT.id, "chat-2"),
    "scopes": ("openid", "api:read", "api:write", "admin"),
    "redirect_uri": ACME.redirect_uris,
    "error": ("access_denied", "server_error"),
    "confirmation_code": ("1234 5678", GUESS),
    "iss": ("https://as.test",),
    "service": ("", "tokenvault.v1.TokenVault", "grpc.health.v1.Health"),
    "file_containing_symbol": ("tokenvault.v1.TokenVault", "google.protobuf.Duration"),
    "file_by_filename": ("tokenvault/v1/token_vault.proto",),
    "containing_type": ("google.protobuf.FieldOptions", "google.protobuf.MessageOptions"),
    "all_extension_numbers_of_type": ("google.protobuf.FieldOptions",),
    "key": ("prompt", "login_hint", "state", "redirect_uri"),
}
"""What gets past the checks, by the name of the field."""

LENGTHS: Final = (
    1,
    63,
    64,
    65,
    128,
    129,
    255,
    256,
    257,
    512,
    513,
    1024,
    1025,
    2048,
    2049,
    4096,
    4097,
    20_000,
)
HOSTILE: Final = (
    *("\x00", "\n", "\r\n", "\x1b[2J", "\x7f", "\x85", "\u2028", "\u202e", "\u2066", "\ufeff", "\ufffe"),
    *(
        "\u0301",
        "\U0010ffff",
        "\ud7ff",
        "İ",
        "ß",
        "%00",
        "%s",
        "{0}",
        "../",
        "'--",
        '"',
        "\\",
        "a&b=c#d",
        SERVICE,
    ),
)
EXTREMES: Final = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
}
NEAR: Final = (-(10**9), -1, 0, 1, 999_999_999, 10**9, 3599, 3600, 3601, 315_576_000_000)
GARBAGE: Final = (
    b"\xff" * 11,  # a varint without end
    b"\x0a\xff\xff\xff\xff\x07",  # a string longer than the message
    b"\x0b" * 4000,  # groups within groups
    b"\x12\x02" * 2000,  # messages within messages
    b"\x0a\x02\xc0\x80",  # no UTF-8
    b"\x00",
)


def messages(kind: Descriptor) -> st.SearchStrategy[Message]:
    """Messages of this kind: sound ones, and any of their fields with whatever its type can hold."""
    message = GetMessageClass(kind)
    wild = st.fixed_dictionaries({}, optional={field.name: _values(field) for field in kind.fields})
    return _sound(kind) | wild.map(lambda fields: message(**fields))


def _sound(kind: Descriptor) -> st.SearchStrategy[Message]:
    """What has a meaning; the choice in a oneof is made."""
    message = GetMessageClass(kind)
    given: dict[str, st.SearchStrategy[Any]] = {}
    perhaps: dict[str, st.SearchStrategy[Any]] = {}
    for field in kind.fields:
        if field.name in KNOWN:
            one = st.sampled_from(KNOWN[field.name])
            perhaps[field.name] = st.lists(one, max_size=3) if field.is_repeated else one
        elif field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            perhaps[field.name] = st.booleans()
        elif field.message_type is not None and not field.is_repeated:
            (given if field.name == "context" else perhaps)[field.name] = _sound(field.message_type)
    given |= {
        name: perhaps.pop(name) for name in ("brand_id", "consumer_id", "conversation_id") if name in perhaps
    }
    if kind.oneofs:
        choices = [st.fixed_dictionaries({name: how}) for name, how in (given | perhaps).items()]
        return st.one_of(*choices).map(lambda fields: message(**fields))
    return st.fixed_dictionaries(given, optional=perhaps).map(lambda fields: message(**fields))


def _values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        few = st.dictionaries(_one(key), _one(value), max_size=3)
        many = st.builds(
            lambda count, held: {f"p{n}": held for n in range(count)},
            st.sampled_from((16, 17, 2000)),
            _one(value),
        )
        return few | many
    if field.is_repeated:
        few_values = st.lists(_one(field), max_size=3)
        return few_values | st.builds(
            lambda held, count: [held] * count, _one(field), st.sampled_from((63, 64, 65, 1000, 5000))
        )
    return _one(field)


def _one(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_MESSAGE:
            assert field.message_type is not None
            return messages(field.message_type)
        case FieldDescriptor.CPPTYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return st.binary(max_size=300)
        case FieldDescriptor.CPPTYPE_STRING:
            return _texts(field.name)
        case kind:
            least, most = EXTREMES[kind]
            near = [value for value in NEAR if least <= value <= most]
            return st.sampled_from([least, *near, most]) | st.integers(least, most)


def _texts(name: str) -> st.SearchStrategy[str]:
    anything = st.text(max_size=20)
    long = st.builds(
        lambda part, length: part * length, st.sampled_from("a €😀\x00"), st.sampled_from(LENGTHS)
    )
    known = st.sampled_from(KNOWN[name]) if name in KNOWN else anything
    spoilt = st.builds(
        lambda good, bad, first: bad + good if first else good + bad,
        known,
        st.sampled_from(HOSTILE),
        st.booleans(),
    )
    return st.one_of(known, known, known, spoilt, long, anything)


def garbled(data: bytes, changes: tuple["Change", ...]) -> bytes:
    """The bytes after these changes, one after the other."""
    for kind, place, what in changes:
        at = place % (len(data) + 1)
        match kind:
            case "truncate":
                data = data[:at]
            case "insert":
                data = data[:at] + what + data[at:]
            case "overwrite":
                data = data[:at] + what + data[at + len(what) :]
            case "delete":
                data = data[:at] + data[at + len(what) :]
            case "twice":
                data = data + data[at:]
    return data


Change = tuple[str, int, bytes]

CHANGES: Final[st.SearchStrategy[tuple[Change, ...]]] = st.one_of(
    st.just(()),
    st.just(()),
    st.lists(
        st.tuples(
            st.sampled_from(("truncate", "insert", "overwrite", "delete", "twice")),
            st.integers(0, 2**16),
            st.binary(min_size=1, max_size=8) | st.sampled_from(GARBAGE),
        ),
        min_size=1,
        max_size=4,
    ).map(tuple),
)
"""What may happen to a request's bytes; more often nothing at all."""

_KEYS: Final = ("authorization", "authorization", "x-trace", "user-agent", "accept", "cookie", "a.b_c-d", "0")
_BINARY_KEYS: Final = ("x-trace-bin", "authorization-bin", "grpc-trace-bin")
_TEXT: Final = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60)

METADATA: Final[st.SearchStrategy[Sequence[tuple[str, str | bytes]]]] = st.just([]) | st.lists(
    st.one_of(
        st.tuples(st.sampled_from(_KEYS), _TEXT),
        st.tuples(
            st.just("authorization"), st.builds("{} {}".format, st.sampled_from(("Bearer", "basic")), _TEXT)
        ),
        st.tuples(st.sampled_from(_BINARY_KEYS), st.binary(max_size=60)),
        st.tuples(st.from_regex("[0-9a-z_.]{1,20}", fullmatch=True), _TEXT),
        st.tuples(
            st.sampled_from(_KEYS),
            st.builds(str.__mul__, st.just("a"), st.sampled_from((1000, 8193, 20_000))),
        ),
    ),
    max_size=4,
)
"""What gRPC's own client lets through; of the last kind more than the server does."""
