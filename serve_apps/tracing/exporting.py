"""Sending spans from a thread: never waited for, bounded in number, counted where they are lost."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from serve_apps.tracing.config import Protocol, TracesConfig

QUEUE = 4096
"""Spans that may wait to be sent."""

_STOP_S = 3.0
_TELL_EVERY_S = 60.0
_EXPORTER_LOGS = ("opentelemetry.exporter.otlp.proto.grpc.exporter",
                  "opentelemetry.exporter.otlp.proto.http.trace_exporter")  # fmt: skip


def make_exporter(config: TracesConfig) -> SpanExporter:
    """The exporter of a protocol; headers, certificates and timeouts come from OTEL_EXPORTER_OTLP_*."""
    for name in _EXPORTER_LOGS:
        log = logging.getLogger(name)
        if not any(isinstance(known, _NowAndThen) for known in log.filters):
            log.addFilter(_NowAndThen())
    if config.protocol is Protocol.HTTP:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HTTPExporter

        return HTTPExporter(endpoint=config.endpoint)
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GRPCExporter

    return GRPCExporter(endpoint=config.endpoint)


class Sending(SpanProcessor):
    """Hands ended spans to the SDK's batching thread; a newcomer is lost while `QUEUE` of them wait.

    `on_end` is called in the event loop alone and `export` in the thread alone, so that each
    counter has one writer.
    """

    def __init__(self, exporter: SpanExporter, count_lost: Callable[[int], None]) -> None:
        self._count_lost = count_lost
        self._taken = 0
        self._exporter = _Counting(exporter, count_lost)
        self._batches = BatchSpanProcessor(self._exporter, max_queue_size=QUEUE)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing is sent before a span's end."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue it."""
        if self._taken - self._exporter.seen >= QUEUE:
            self._count_lost(1)
            return
        self._taken += 1
        self._batches.on_end(span)

    def shutdown(self) -> None:
        """Send what waits, for a few seconds at most; what is left then is lost."""
        patience = threading.Timer(_STOP_S, self._exporter.shutdown)
        patience.daemon = True
        patience.start()
        self._batches.shutdown()
        patience.cancel()

    def force_flush(self, timeout_millis: int | None = None) -> bool:
        """Send what waits, in this thread."""
        return self._batches.force_flush(timeout_millis)


class _Counting(SpanExporter):
    def __init__(self, exporter: SpanExporter, count_lost: Callable[[int], None]) -> None:
        self._exporter = exporter
        self._count_lost = count_lost
        self._closed = False
        self.seen = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.seen += len(spans)
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            if result is not SpanExportResult.SUCCESS:
                self._count_lost(len(spans))
        return result

    def shutdown(self) -> None:
        if not self._closed:
            self._closed = True
            self._exporter.shutdown()


class _NowAndThen(logging.Filter):
    """Lets one record through a minute: an exporter repeats itself for as long as nobody listens."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + _TELL_EVERY_S
        return True
