"""Logging a defect of ours without what it was working on."""

import traceback

import structlog

from tokenvault_sidecar.api.calls import CallUnderWay

_log = structlog.get_logger()


def log_defect(method: str, call: CallUnderWay, error: Exception) -> None:
    """Where it happened and of which class. The exception's text and its frames' values may be secrets."""
    _log.error(
        "call_failed_unexpectedly",
        method=method,
        caller=call.caller.name if call.caller else None,
        errors=_classes(error),
        where=_frames(error),
    )


def _classes(error: BaseException) -> list[str]:
    """The exception's class, then those it came from."""
    names = []
    link: BaseException | None = error
    while link is not None:
        names.append(f"{type(link).__module__}.{type(link).__qualname__}")
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return names


def _frames(error: BaseException) -> list[str]:
    """Its traceback as "module:line function", outermost first."""
    return [
        f"{frame.f_globals.get('__name__')}:{line} {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
