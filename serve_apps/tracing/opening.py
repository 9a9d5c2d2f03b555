"""The tracer that a gateway's configuration asks for."""

from __future__ import annotations

from serve_apps.gateway.trace import Tracer
from serve_apps.tracing.config import TracesConfig


def open_tracer(config: TracesConfig | None) -> Tracer:
    """One that tells nobody, unless `traces` is configured; only then is OpenTelemetry imported."""
    if config is None:
        return Tracer()
    from serve_apps.tracing.otel import OtelTracer

    return OtelTracer(config)
