"""Logs on stderr: one JSON object a line, or text for people.

An error is for waking somebody, a warning for the next morning; info is the
course of things, debug what is too much of that.
"""

import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, TextIO, cast

import structlog

from tokenvault_sidecar.adapters.repeats import Repeats
from tokenvault_sidecar.core.errors import Reason

LEVELS: Final[Mapping[str, int]] = {
    # only an operator can mend it, or something is lost
    "defect": logging.ERROR,
    "delegation_unsaved": logging.ERROR,
    "renewal as_misconfigured": logging.ERROR,
    "renewal foreign_subject": logging.ERROR,
    "renewal_unsaved": logging.ERROR,
    "revocation_given_up": logging.ERROR,
    "rotation_waits": logging.ERROR,
    "unreadable_forgotten": logging.ERROR,
    "unreadable_kept": logging.ERROR,
    # it mends itself, or becomes one of those above
    "circuit opened": logging.WARNING,
    "clock_followed": logging.WARNING,
    "clock_jumped": logging.WARNING,
    "housekeeping_waits": logging.WARNING,
    "id_token_refused": logging.WARNING,
    "outcome_unsaved": logging.WARNING,
    "renewal ambiguous": logging.WARNING,
    "renewal as_unavailable": logging.WARNING,
    "renewal lost": logging.WARNING,
    "revocation_waits": logging.WARNING,
    # the course of things
    "circuit closed": logging.INFO,
    "confirmation confirmed": logging.INFO,
    "confirmation shown": logging.INFO,
    "confirmation wrong": logging.INFO,
    "data_key_added": logging.INFO,
    "data_key_deleted": logging.INFO,
    "delegation completed": logging.INFO,
    "purged": logging.INFO,
    "renewal late": logging.INFO,
    "renewal refused": logging.INFO,
    "revocation": logging.INFO,
    # as many as there are grants
    "renewal renewed": logging.DEBUG,
    # why a delegation failed: consumers do as they like, servers and operators should not
    **{f"delegation {reason.value.lower()}": logging.INFO for reason in Reason},
    "delegation as_misconfigured": logging.ERROR,
    "delegation internal": logging.ERROR,
    "delegation as_unavailable": logging.WARNING,
    "delegation code_rejected": logging.WARNING,
    "delegation confirmation_code_wrong": logging.WARNING,
    "delegation invalid_id_token": logging.WARNING,
    "delegation issuer_mismatch": logging.WARNING,
    "delegation store_unavailable": logging.WARNING,
}
"""The level of each event of the core, by its name and outcome."""


def configure_logging(level: str, form: str, about: Callable[[], Mapping[str, object]] = dict) -> None:
    """Set structlog up. `level` is the least that is logged.

    `form` is "json", "console", or "auto": text on a terminal, else JSON.
    `about` says of the call under way what each line of it carries.
    """
    logging.getLogger("grpc._cython.cygrpc").addFilter(_tells_no_metadata)
    terminal = sys.stderr.isatty()
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=terminal)
        if form == "console" or (form == "auto" and terminal)
        else structlog.processors.JSONRenderer()
    )

    def tell_of_call(_: object, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {**about(), **line}

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            tell_of_call,
            Repeats(),
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
        name = f"{event} {facts['outcome']}" if "outcome" in facts else event
        self._log.log(LEVELS.get(name, logging.WARNING), event, **facts)
