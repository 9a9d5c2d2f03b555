"""Whether a finished request is an error of its version, and of which kind."""

from __future__ import annotations

from enum import StrEnum

HUNG_UP = 499
"""The status counted for a caller who left before the answer was complete."""


class ErrorKind(StrEnum):
    """The values are counts of a tally."""

    TIMEOUT = "timeout"
    BROKEN_STREAM = "broken_stream"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


class Unanswered(StrEnum):
    """Requests that no answer came of, by no error either. The values are counts of a tally."""

    LEFT = "left"
    OVERLOADED = "overloaded"


_BY_CODE = {
    "upstream_timeout": ErrorKind.TIMEOUT,
    "no_replica": ErrorKind.UNAVAILABLE,
    "upstream_failed": ErrorKind.UNAVAILABLE,
    "task_output": ErrorKind.INTERNAL,
    "internal_error": ErrorKind.INTERNAL,
}
"""The gateway's codes; a replica's own errors have none, or `upstream_error`, and go by their status."""

_BY_STATUS = {503: ErrorKind.UNAVAILABLE, 504: ErrorKind.TIMEOUT}


def is_callers(status: int, code: str) -> bool:
    """Whether it tells nothing of the version: the caller was wrong, was turned away, or left."""
    return 400 <= status < 500 and not _had_begun(status, code)


def unanswered(status: int, code: str, *, begun: bool) -> Unanswered | None:
    """Whether the caller left before the answer had `begun`, or the version had too much to do.

    A version that hangs is never seen to fail: whoever waits for it leaves. A caller who has begun to read
    may stop for what the answer says.
    """
    if status == HUNG_UP and not code and not begun:
        return Unanswered.LEFT
    return Unanswered.OVERLOADED if code == "overloaded" else None


def error_kind(status: int, code: str) -> ErrorKind | None:
    """From an answer's status and the gateway's code, which a stream may end with; None for a good one."""
    kind = _BY_CODE.get(code)
    if status < 400 or _had_begun(status, code):
        if not code:
            return None
        return ErrorKind.BROKEN_STREAM if kind in (None, ErrorKind.UNAVAILABLE) else kind
    if status < 500:
        return None
    return kind or _BY_STATUS.get(status, ErrorKind.INTERNAL)


def _had_begun(status: int, code: str) -> bool:
    # An answer that failed on its way keeps this status, and has a code, unlike one whose caller left.
    return status == HUNG_UP and bool(code)
