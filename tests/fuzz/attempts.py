"""Calls that gRPC's own clients can make: any method, message, bytes in its place, and metadata."""

from dataclasses import dataclass

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from tests.fuzz.messages import CHANGES, GUESS, METADATA, Change, garbled, messages
from tests.fuzz.target import CALLERS, Metadata, Target


@dataclass(frozen=True)
class Attempt:
    """One call. `live`: with the state and code, delegation, or token version, that are good just now."""

    caller: str
    messages: list[Message]
    changes: tuple[Change, ...]
    metadata: Metadata
    live: bool
    bearer: bool


def attempts(method: MethodDescriptor) -> st.SearchStrategy[Attempt]:
    return st.builds(
        Attempt,
        caller=st.sampled_from(CALLERS),
        messages=st.lists(
            messages(method.input_type), min_size=1, max_size=3 if method.client_streaming else 1
        ),
        changes=CHANGES,
        metadata=METADATA,
        live=st.booleans(),
        bearer=st.sampled_from((True, True, True, False)),
    )


def plain(method: MethodDescriptor) -> Attempt:
    """The bot's, live and otherwise empty: by chance alone a method may see none that is good."""
    empty = GetMessageClass(method.input_type)()
    return Attempt("bot", [empty], changes=(), metadata=(), live=True, bearer=True)


async def make(target: Target, method: MethodDescriptor, attempt: Attempt) -> tuple[grpc.StatusCode, str]:
    """Make the call that the attempt describes."""
    fields = method.input_type.fields_by_name
    for message in attempt.messages if attempt.live else ():
        if "code" in fields:
            came_back = await target.login()
            assert came_back.code is not None
            good = {"state": came_back.state.reveal(), "code": came_back.code.reveal()}
            message.MergeFrom(type(message)(iss=came_back.iss, **good))
            message.ClearField("error")
        elif "confirmation_code" in fields:
            held, right = await target.locked()
            code = GUESS if message == type(message)(confirmation_code=GUESS) else right
            message.MergeFrom(type(message)(delegation_id=held, confirmation_code=code))
        elif "delegation_id" in fields:
            message.MergeFrom(type(message)(delegation_id=await target.delegation()))
        elif "rejected_token_version" in fields:
            message.MergeFrom(type(message)(rejected_token_version=await target.version()))
    shown = [("authorization", target.bearer())] if attempt.bearer else []
    return await target.send(
        method,
        [garbled(message.SerializeToString(), attempt.changes) for message in attempt.messages],
        caller=attempt.caller,
        metadata=[*shown, *attempt.metadata],
    )
