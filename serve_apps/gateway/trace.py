"""What a request tells whoever traces it. These tell nobody, and cost a request next to nothing.

`serve_apps.tracing.otel` tells OpenTelemetry; it is imported only where `traces` is configured.
"""

from __future__ import annotations

from collections.abc import Callable

from multidict import CIMultiDict

from serve_apps.gateway.asgi import RawHeaders
from serve_apps.gateway.directory import Replica
from serve_apps.gateway.observation import Observation

CANCELLED = "cancelled"
"""The error of a part that its caller did not wait for."""


class Span:
    """One part of a request: its wait to be let in, or an attempt on a replica."""

    __slots__ = ()

    def pass_on(self, headers: CIMultiDict[str]) -> None:
        """Name it in the headers of what is sent, so that the receiver joins the same trace."""

    def end(self, *, status: int | None = None, error: str = "") -> None:
        """It is over, by an answer of `status` or by an error."""


class RequestTrace:
    """One request, from its headers to the last byte of its answer."""

    __slots__ = ()

    def waits(self) -> Span:
        """It stands in the line of its version."""
        return UNTRACED_SPAN

    def attempts(self, replica: Replica, *, goes_on: bool) -> Span:
        """It is sent to a replica; `goes_on` is for the rest of a stream that has begun."""
        return UNTRACED_SPAN

    def finish(self, row: Observation) -> None:
        """It is over, and this is what is known of it."""


class Tracer:
    """Begins the trace of each request."""

    def start(self, count_lost: Callable[[int], None]) -> None:
        """Send from now on what is traced, and count what cannot be; a second call changes nothing."""

    def begin(self, headers: RawHeaders, route: str) -> RequestTrace:
        """A request has come."""
        return UNTRACED

    def stop(self) -> None:
        """Send what is left; may block for a few seconds."""


UNTRACED_SPAN = Span()
UNTRACED = RequestTrace()
