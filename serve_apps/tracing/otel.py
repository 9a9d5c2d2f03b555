"""The spans of a request, made with OpenTelemetry's SDK.

The provider is the gateway's own: the process-wide one may belong to Ray Serve's tracing, which
follows its handles and not these requests.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

from multidict import CIMultiDict
from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace import Tracer as OtelTracerOfSpans
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from yarl import URL

from serve_apps.gateway.asgi import RawHeaders
from serve_apps.gateway.directory import Replica
from serve_apps.gateway.observation import Observation
from serve_apps.gateway.trace import CANCELLED, RequestTrace, Span, Tracer
from serve_apps.tracing import attributes
from serve_apps.tracing.config import TracesConfig
from serve_apps.tracing.exporting import Sending, make_exporter

SERVICE = "linnet-gateway"
"""The service's name, unless OTEL_SERVICE_NAME gives another."""

_CONTEXT = TraceContextTextMapPropagator()
_CARRIED = {b"traceparent": "traceparent", b"tracestate": "tracestate"}


class OtelTracer(Tracer):
    """Decides of each request whether it is traced: as its caller did, else by chance."""

    def __init__(self, config: TracesConfig, exporter: SpanExporter | None = None) -> None:
        self._config = config
        self._exporter = exporter
        self._sending: Sending | None = None
        self._provider = TracerProvider(
            sampler=ParentBasedTraceIdRatio(config.sample), resource=_resource(), shutdown_on_exit=False
        )
        self._tracer = self._provider.get_tracer("linnet.gateway", version("linnet"))

    def start(self, count_lost: Callable[[int], None]) -> None:
        """Start the thread that sends."""
        if self._sending is None:
            self._sending = Sending(self._exporter or make_exporter(self._config), count_lost)
            self._provider.add_span_processor(self._sending)

    def begin(self, headers: RawHeaders, route: str) -> RequestTrace:
        """Join the caller's trace, or begin one."""
        # A fresh context: what happens to be current in this process is of no concern to the caller.
        span = self._tracer.start_span(
            f"POST {route}", _callers(headers), SpanKind.SERVER, attributes.of_request(route)
        )
        if span.is_recording():
            return _Sampled(self._tracer, span, route)
        return _Unsampled(span)

    def stop(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


class _Unsampled(RequestTrace):
    """Nothing is recorded, but replicas are told so, or they would decide for themselves."""

    __slots__ = ("_passing",)

    def __init__(self, span: OtelSpan) -> None:
        self._passing = _Passing(span)

    def attempts(self, replica: Replica, *, goes_on: bool) -> Span:
        return self._passing


class _Sampled(RequestTrace):
    __slots__ = ("_context", "_name", "_sent", "_span", "_tracer")

    def __init__(self, tracer: OtelTracerOfSpans, span: OtelSpan, route: str) -> None:
        self._tracer = tracer
        self._span = span
        self._name = f"POST {route}"
        self._context = set_span_in_context(span, Context())
        self._sent = 0

    def waits(self) -> Span:
        return _Part(self._tracer.start_span("admission", self._context))

    def attempts(self, replica: Replica, *, goes_on: bool) -> Span:
        url = URL(replica.base_url)
        known = attributes.of_attempt(replica, url.host or "", url.port or 0, self._sent, goes_on=goes_on)
        self._sent += 1
        return _Part(self._tracer.start_span(self._name, self._context, SpanKind.CLIENT, known))

    def finish(self, row: Observation) -> None:
        self._span.set_attributes(attributes.of_end(row))
        if attributes.failed(row):
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class _Passing(Span):
    __slots__ = ("_span",)

    def __init__(self, span: OtelSpan) -> None:
        self._span = span

    def pass_on(self, headers: CIMultiDict[str]) -> None:
        headers.popall("tracestate", None)
        _CONTEXT.inject(headers, set_span_in_context(self._span, Context()))


class _Part(_Passing):
    __slots__ = ()

    def end(self, *, status: int | None = None, error: str = "") -> None:
        if status is not None:
            self._span.set_attribute("http.response.status_code", status)
        if error:
            self._span.set_attribute("error.type", error)
        if error and error != CANCELLED:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


def _callers(headers: RawHeaders) -> Context:
    carrier: dict[str, list[str]] = {}
    for name, value in headers:
        if (known := _CARRIED.get(name)) is not None:
            carrier.setdefault(known, []).append(value.decode("latin-1"))
    # Two of them name no parent.
    if len(carrier.get("traceparent", ())) != 1:
        return Context()
    return _CONTEXT.extract(carrier, Context())


def _resource() -> Resource:
    """The environment's own words (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) win over ours."""
    return Resource.create({"service.name": SERVICE}).merge(OTELResourceDetector().detect())
