"""What a gateway counts, in a registry of its own. Labels take only names that are served."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase

from serve_apps.gateway.openai_errors import REASONS

NONE = "none"
"""Label value where a request named no model or version that is served."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class GatewayMetrics:
    """Requests, time to the first byte and to the last, retries and broken streams."""

    def __init__(self, tasks_stale: Callable[[], bool] = lambda: False) -> None:
        self.registry = CollectorRegistry()
        both = ("model", "version")
        self._requests = Counter(
            "linnet_gateway_requests", "Answers given.", (*both, "route", "status"), registry=self.registry
        )
        self._in_flight = Gauge(
            "linnet_gateway_in_flight", "Requests being answered.", both, registry=self.registry
        )
        self._ttft = Histogram(
            "linnet_gateway_ttft_seconds",
            "From the request to the first event of a stream.",
            both,
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._duration = Histogram(
            "linnet_gateway_duration_seconds",
            "From the request to the last byte.",
            (*both, "route"),
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._retries = Counter(
            "linnet_gateway_retries", "Attempts after the first.", (*both, "cause"), registry=self.registry
        )
        self._continued = Counter(
            "linnet_gateway_continued_streams",
            "Streams that another replica went on with.",
            both,
            registry=self.registry,
        )
        self._broken = Counter(
            "linnet_gateway_broken_streams", "Streams ended by an error.", both, registry=self.registry
        )
        self._queued = Gauge(
            "linnet_gateway_queued", "Requests waiting to be let in.", both, registry=self.registry
        )
        self._refused = Counter(
            "linnet_gateway_refused",
            "Requests turned away for want of a key, a right or room.",
            ("reason",),
            registry=self.registry,
        )
        self._log_rows_dropped = Counter(
            "linnet_gateway_log_rows_dropped",
            "Rows of the access log that gave way to newer ones before they were written.",
            registry=self.registry,
        )
        Gauge(
            "linnet_gateway_tasks_stale",
            "1 while the newest user_config was refused and older tasks are in force.",
            registry=self.registry,
        ).set_function(tasks_stale)
        # Looking up a child by its labels costs more than counting; the labels are few.
        self._child = lru_cache(maxsize=4096)(_labelled)

    def began(self, model: str, version: str) -> None:
        """A request has a version and is on its way."""
        self._child(self._in_flight, model, version).inc()

    def ended(self, model: str, version: str) -> None:
        """The counterpart of `began`."""
        self._child(self._in_flight, model, version).dec()

    def answered(self, model: str, version: str, route: str, status: int, seconds: float) -> None:
        """An answer is complete; status 499 stands for a caller who hung up."""
        self._child(self._requests, model, version, route, str(status)).inc()
        self._child(self._duration, model, version, route).observe(seconds)

    def first_event(self, model: str, version: str, seconds: float) -> None:
        """A stream has begun."""
        self._child(self._ttft, model, version).observe(seconds)

    def retried(self, model: str, version: str, cause: str) -> None:
        """One more attempt, because of `cause`."""
        self._child(self._retries, model, version, cause).inc()

    def continued(self, model: str, version: str) -> None:
        """A begun stream goes on from another replica."""
        self._child(self._continued, model, version).inc()

    def broken(self, model: str, version: str) -> None:
        """A stream ended with an error event."""
        self._child(self._broken, model, version).inc()

    def log_row_dropped(self) -> None:
        """A row of the access log is lost."""
        self._log_rows_dropped.inc()

    def queued(self, model: str, version: str) -> None:
        """A request waits to be let in."""
        self._child(self._queued, model, version).inc()

    def dequeued(self, model: str, version: str) -> None:
        """The counterpart of `queued`."""
        self._child(self._queued, model, version).dec()

    def refused(self, code: str) -> None:
        """A refusal was sent; those that have no reason of their own are not counted here."""
        if (reason := REASONS.get(code)) is not None:
            self._child(self._refused, reason).inc()

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)


def _labelled(metric: MetricWrapperBase, *values: str) -> Any:
    return metric.labels(*values)
