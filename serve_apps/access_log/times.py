"""Times as people give them: so long ago, or a date."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from cluster.errors import UsageError

_AGO = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_time(text: str, now: datetime) -> datetime:
    """`15m` before `now`, or an ISO date or time, in UTC where it names no zone. Raises UsageError."""
    try:
        if ago := _AGO.fullmatch(text):
            return now - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
        given = datetime.fromisoformat(text)
        return (given if given.tzinfo else given.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(
            f"`{text}` is not a time.",
            code="usage.time",
            hint="Write how long ago (90s, 15m, 2h, 7d) or a time (2026-11-22, 2026-11-22T10:30:00+01:00).",
        ) from None
