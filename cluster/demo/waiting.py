"""Waiting for a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

from cluster.errors import TimedOutError


def until(
    condition: Callable[[], bool], what: str, *, deadline_s: float, hint: str, period_s: float = 0.2
) -> None:
    """Return once `condition` holds. Raises TimedOutError `demo.timeout` after `deadline_s` seconds."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise TimedOutError(
                f"{what} did not come true within {deadline_s:g} s.", code="demo.timeout", hint=hint
            )
        time.sleep(period_s)
