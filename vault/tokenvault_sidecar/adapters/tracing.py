"""Traces by OpenTelemetry, sent to a collector by OTLP over HTTP from a thread of their own.

The one module that imports OpenTelemetry, and itself imported only where
traces are configured. Implements the port of core.tracing. Nothing of
OpenTelemetry's that is global is set.
"""

import logging
import threading
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

import requests
import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tokenvault_sidecar.core.errors import Reason

_TRACEPARENT: Final = "traceparent"  # not tracestate: what others put there is not for authorization servers
_SEND_EVERY: Final = 1.0
_SEND_SECONDS: Final = 2.0
"""For a batch, however often it is tried."""
_LAST_SECONDS: Final = 5.0
_TELL_EVERY: Final = 60.0
_FAULTS: Final = frozenset(
    {Reason.INTERNAL, Reason.STORE_UNAVAILABLE, Reason.AS_UNAVAILABLE, Reason.AS_MISCONFIGURED}
    | {"DEADLINE_EXCEEDED"}
)
"""Reasons that are no fault of the caller's or the consumer's: their spans are errors."""

_w3c: Final = TraceContextTextMapPropagator()


class Tracing:
    """Begins calls' spans, and sends those that are sampled.

    Whether a trace is kept its beginner decides, else the `sample_ratio`.
    `brands` are those that there are: another is whatever a caller wrote there.
    """

    def __init__(self, endpoint: str, sample_ratio: float, *, version: str) -> None:
        # It logs each failure, with what the collector said: ours is one line.
        library = logging.getLogger("opentelemetry")
        library.addHandler(logging.NullHandler())
        library.propagate = False
        self.brands: Container[str] = ()
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
            resource=Resource.create({"service.name": "tokenvault-sidecar", "service.version": version}),
            shutdown_on_exit=False,
        )
        processor = BatchSpanProcessor(_Exporter(endpoint), schedule_delay_millis=_SEND_EVERY * 1000)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("tokenvault_sidecar", version)

    def begin(self, rpc: str, metadata: Iterable[tuple[str, str | bytes]]) -> "_Call":
        """Within the caller's trace, where its metadata names one; else a new one."""
        came = [value for key, value in metadata if key == _TRACEPARENT and isinstance(value, str)]
        parent = _w3c.extract({_TRACEPARENT: came[0]} if len(came) == 1 else {}, Context())
        attributes = {"rpc.system": "grpc", "rpc.method": rpc}
        span = self._tracer.start_span(rpc, parent, SpanKind.SERVER, attributes)
        return _Call(self, self._tracer, span)

    def close(self, seconds: float) -> None:
        """Send what is left, for so long at most: a collector that hangs holds nothing up."""
        last = threading.Thread(target=self._provider.shutdown, daemon=True, name="last spans")
        last.start()
        last.join(min(max(seconds, 0.0), _LAST_SECONDS))


class _Call:
    """Implements core.tracing.CallSpan."""

    def __init__(self, tracing: Tracing, tracer: Tracer, span: Span) -> None:
        self._tracing = tracing
        self._tracer = tracer
        self._span = span

    def request(self, method: str, url: str, brand: str | None) -> "_Request":
        parts = urlsplit(url)
        attributes = {
            "http.request.method": method,
            "url.full": f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}",
        }
        if brand is not None:
            attributes["tokenvault.brand"] = brand
        parent = set_span_in_context(self._span, Context())
        return _Request(self._tracer.start_span(method, parent, SpanKind.CLIENT, attributes))

    def end(self, *, caller: str | None, brand: str | None, reason: str) -> None:
        self._span.set_attribute("tokenvault.reason", reason)
        if caller is not None:
            self._span.set_attribute("tokenvault.caller", caller)
        if brand is not None and brand in self._tracing.brands:
            self._span.set_attribute("tokenvault.brand", brand)
        if reason in _FAULTS:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class _Request:
    """Implements core.tracing.RequestSpan."""

    def __init__(self, span: Span) -> None:
        self._span = span

    @property
    def headers(self) -> Mapping[str, str]:
        headers: dict[str, str] = {}
        _w3c.inject(headers, set_span_in_context(self._span, Context()))
        return headers

    def end(self, status: int | None, problem: str | None) -> None:
        if status is not None:
            self._span.set_attribute("http.response.status_code", status)
        if problem is not None:
            self._span.set_attribute("error.type", problem)
        if problem is not None or (status is not None and status >= 400):
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class _Exporter(SpanExporter):
    """Sends spans, and says now and then that it could not. Runs in the processor's thread."""

    def __init__(self, endpoint: str) -> None:
        session = requests.Session()
        session.trust_env = False  # no proxy or netrc of the environment
        session.max_redirects = 0
        self._exporter = OTLPSpanExporter(endpoint, timeout=_SEND_SECONDS, session=session)
        self._unsent = 0
        self._tell_at = 0.0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            self._unsent += len(spans)
            if (now := time.monotonic()) >= self._tell_at:
                structlog.get_logger().warning("traces_unsent", spans=self._unsent)
                self._unsent, self._tell_at = 0, now + _TELL_EVERY
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]
