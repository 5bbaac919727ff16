"""Logs on stderr: one JSON object a line, or text for people."""

import logging
import sys
from contextlib import suppress
from typing import Final, TextIO, cast

import structlog

_LEVELS: Final = {
    # what an operator must act on
    "defect": logging.ERROR,
    "revocation_given_up": logging.ERROR,
    "unreadable_forgotten": logging.ERROR,
    "renewal_unsaved": logging.ERROR,
    "delegation_unsaved": logging.ERROR,
    # what may become that
    "clock_jumped": logging.WARNING,
    "clock_followed": logging.WARNING,
    "housekeeping_waits": logging.WARNING,
    "id_token_refused": logging.WARNING,
    "revocation_waits": logging.WARNING,
}
_OUTCOMES: Final = {
    "renewed": logging.DEBUG,
    "as_misconfigured": logging.ERROR,
    "foreign_subject": logging.ERROR,
    "as_unavailable": logging.WARNING,
    "ambiguous": logging.WARNING,
    "lost": logging.WARNING,
}


def configure_logging(level: str, form: str) -> None:
    """Set structlog up. `level` is the least that is logged; `form` is "json" or "console"."""
    logging.getLogger("grpc._cython.cygrpc").addFilter(_tells_no_metadata)
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        # A line and its end in one write: gRPC writes there from threads of its own.
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Stderr())),
        cache_logger_on_first_use=True,
    )


class _Stderr:
    """Standard error, which may be a file on a full disk or a broken pipe: no call fails for that."""

    def write(self, text: str) -> None:
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


def _tells_no_metadata(record: logging.LogRecord) -> bool:
    """gRPC logs what it cannot decode, and that may be a token."""
    return not str(record.msg).startswith("Invalid encoding on")


class LogEvents:
    """Implements core.ports.Events: each event is a line, its level in one table."""

    def __init__(self) -> None:
        self._log = structlog.get_logger()

    def __call__(self, event: str, /, **facts: str | int | float) -> None:
        level = _LEVELS.get(event) or _OUTCOMES.get(str(facts.get("outcome")), logging.INFO)
        self._log.log(level, event, **facts)
