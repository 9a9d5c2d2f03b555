"""What a gateway counts, in a registry of its own. Labels take only names that are served."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase

from serve_apps.gateway.observation import Observation
from serve_apps.gateway.openai_errors import REASONS
from serve_apps.gateway.standing import Standing, StandingGauges

NONE = "none"
"""Label value where a request named no model or version that is served."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_BETWEEN_TOKENS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)


class GatewayMetrics:
    """Requests, tokens, times, errors and broken streams, and how the versions stand."""

    def __init__(self, tasks_stale: Callable[[], bool] = lambda: False) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        both = ("model", "version")
        self._requests = counter("linnet_gateway_requests", "Answers given.", (*both, "route", "status"))
        self._in_flight = gauge("linnet_gateway_in_flight", "Requests being answered.", both)
        self._queued = gauge("linnet_gateway_queued", "Requests waiting to be let in.", both)
        what = "From the request to the first event of a stream."
        self._ttft = histogram("linnet_gateway_ttft_seconds", what, both, buckets=_SECONDS)
        what = "From the request to the last byte."
        self._duration = histogram(
            "linnet_gateway_duration_seconds", what, (*both, "route"), buckets=_SECONDS
        )
        what = "Mean time between the tokens of a stream."
        self._itl = histogram("linnet_gateway_itl_seconds", what, both, buckets=_BETWEEN_TOKENS)
        self._tokens = counter("linnet_gateway_tokens", "Tokens of prompts and answers.", (*both, "kind"))
        self._errors = counter("linnet_gateway_errors", "Errors that the gateway made.", (*both, "code"))
        self._retries = counter("linnet_gateway_retries", "Attempts after the first.", (*both, "cause"))
        what = "Streams that another replica went on with."
        self._continued = counter("linnet_gateway_continued_streams", what, both)
        self._broken = counter("linnet_gateway_broken_streams", "Streams ended by an error.", both)
        what = "Requests turned away for want of a key, a right or room."
        self._refused = counter("linnet_gateway_refused", what, ("reason",))
        what = "Copies of requests that were sent, or not, to the candidate."
        self._shadowed = counter("linnet_gateway_shadowed", what, (*both, "outcome"))
        what = "Rows of the access log that gave way to newer ones before they were written."
        self._log_rows_dropped = counter("linnet_gateway_log_rows_dropped", what)
        what = "Spans that did not reach the collector."
        self._spans_lost = counter("linnet_gateway_spans_lost", what)
        what = "1 while the newest user_config was refused and older tasks are in force."
        gauge("linnet_gateway_tasks_stale", what).set_function(tasks_stale)
        self._standing = StandingGauges(self.registry)
        # Looking up a child by its labels costs more than counting; the labels are few.
        self._child = lru_cache(maxsize=4096)(_labelled)
        # A counter that begins at 1 hides its first event from `increase`; these begin at 0.
        for reason in set(REASONS.values()):
            self._child(self._refused, reason)

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

    def observed(self, row: Observation) -> None:
        """What the end of an answer tells: its tokens, the pace of a stream, the gateway's own error."""
        model, version = row.model, row.version
        if row.prompt_tokens:
            self._child(self._tokens, model, version, "prompt").inc(row.prompt_tokens)
        if row.completion_tokens:
            self._child(self._tokens, model, version, "completion").inc(row.completion_tokens)
        if row.itl_s is not None:
            self._child(self._itl, model, version).observe(row.itl_s)
        if row.error_code:
            self._child(self._errors, model, version, row.error_code).inc()

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

    def shadowed(self, model: str, version: str, outcome: str) -> None:
        """What became of a copy of a request, for the candidate."""
        self._child(self._shadowed, model, version, outcome).inc()

    def log_row_dropped(self) -> None:
        """A row of the access log is lost."""
        self._log_rows_dropped.inc()

    def spans_lost(self, number: int) -> None:
        """So many spans were made and not delivered."""
        self._spans_lost.inc(number)

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

    def text(self, standings: Iterable[Standing]) -> bytes:
        """Prometheus' text format, with how the versions stand now."""
        now = list(standings)
        self._standing.fill(now)
        for one in now:
            for counter in (self._broken, self._continued):
                self._child(counter, one.model, one.version)
        return generate_latest(self.registry)


def _labelled(metric: MetricWrapperBase, *values: str) -> Any:
    return metric.labels(*values)
