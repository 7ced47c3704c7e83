"""Spans in OpenTelemetry's SDK, sent over OTLP/HTTP; imported only where they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from motley_runtime.gateway.errors import GatewayError, UpstreamError
from motley_runtime.gateway.tracing import RawHeaders, Span, Trace, Tracing, context_of, now_ns

_TRACES = "/v1/traces"
_NAMES = {"status": "http.response.status_code"}
_current: ContextVar[OtelSpan | None] = ContextVar("motley_span", default=None)


class OtelTracing(Tracing):
    """Records spans and hands them to a processor."""

    def __init__(self, processor: SpanProcessor, share: float = 1.0) -> None:
        sampler = ParentBased(TraceIdRatioBased(share))
        resource = Resource.create({SERVICE_NAME: "motley-gateway"})
        self._provider = TracerProvider(sampler=sampler, resource=resource)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("motley.gateway")

    @staticmethod
    def to_endpoint(endpoint: str, share: float) -> OtelTracing:
        """Sends in batches, from a thread, to an OTLP/HTTP endpoint or its base URL."""
        path = urlsplit(endpoint).path
        url = endpoint if path not in ("", "/") else endpoint.rstrip("/") + _TRACES
        return OtelTracing(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)), share)

    def begin(self, headers: RawHeaders, name: str) -> Trace:
        """The trace of a request, within the client's where it sent one."""
        parent, state = context_of(headers)
        carrier = {"traceparent": parent.decode(), "tracestate": state.decode()}
        context = TraceContextTextMapPropagator().extract(carrier)
        return RecordedTrace(
            self._tracer, self._tracer.start_span(name, context=context, kind=SpanKind.SERVER)
        )

    def close(self) -> None:
        """Sends what is left."""
        self._provider.shutdown()


class RecordedTrace(Trace):
    """A request whose parts are recorded, each within the one that it began in."""

    __slots__ = ("_root", "_tracer")

    def __init__(self, tracer: Tracer, root: OtelSpan) -> None:
        super().__init__()
        self._tracer, self._root = tracer, root

    def headers(self) -> bytes:
        """The trace context of the part that runs now."""
        context = self._parent().get_span_context()
        ids = (context.trace_id, context.span_id, context.trace_flags)
        lines = b"traceparent: 00-%032x-%016x-%02x\r\n" % ids
        state = context.trace_state.to_header()
        return lines + b"tracestate: %b\r\n" % state.encode() if state else lines

    def span(self, name: str, **attributes: str) -> Span:
        """A part of the request."""
        kind = SpanKind.CLIENT if "replica" in attributes else SpanKind.INTERNAL
        return _RecordedSpan(self._start(name, kind=kind, attributes=_named(attributes)))

    def waited(self, name: str, since_ns: int) -> None:
        """A part that is over."""
        self._start(name, start_time=since_ns).end(now_ns())

    def end(self, fields: Mapping[str, Any]) -> None:
        """Ends the request's own span."""
        self._root.set_attributes(_named(fields))
        if fields.get("status", 0) >= 500:
            self._root.set_status(Status(StatusCode.ERROR))
        self._root.end()

    def _parent(self) -> OtelSpan:
        return _current.get() or self._root

    def _start(self, name: str, **options: Any) -> OtelSpan:
        return self._tracer.start_span(name, context=set_span_in_context(self._parent()), **options)


class _RecordedSpan(Span):
    __slots__ = ("_before", "_span")

    def __init__(self, span: OtelSpan) -> None:
        self._span = span
        self._before: OtelSpan | None = None

    def __enter__(self) -> Self:
        self._before = _current.get()
        _current.set(self._span)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.failed(_kind_of(error))
        self._span.end()
        _current.set(self._before)

    def failed(self, kind: str) -> None:
        """Says that it failed."""
        self._span.set_status(Status(StatusCode.ERROR, kind))


def _kind_of(error: BaseException) -> str:
    """How it failed, in a word: messages may quote what somebody sent."""
    if isinstance(error, UpstreamError):
        return error.kind
    return error.code if isinstance(error, GatewayError) else type(error).__name__


def _named(fields: Mapping[str, Any]) -> dict[str, Any]:
    found = {k: v for k, v in fields.items() if v is not None}
    return {_NAMES.get(key, f"motley.{key}"): value for key, value in found.items()}
