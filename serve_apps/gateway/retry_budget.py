"""How often a version's requests may be sent again: enough for a lost replica, too little for a storm.

The budget of Finagle (Twitter), with a larger reserve: a replica that dies with hundreds of requests
has them all sent again at once, while a version whose every replica fails each request would have
its load tripled by three attempts, just when it can bear it least.
"""

from __future__ import annotations

import time
from collections.abc import Callable

RATIO = 0.2
"""Retries that each request earns."""
PER_S = 5.0
"""Retries that each second earns, for versions with few requests."""
RESERVE = 512.0
"""Retries that can be saved up, and that a version begins with."""


class RetryBudget:
    """Of one version in one gateway."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock()
        self._saved = RESERVE

    def earn(self) -> None:
        """A request came."""
        self._saved = min(RESERVE, self._saved + RATIO)

    def spend(self) -> bool:
        """Whether one more retry is in the budget; it is taken out."""
        now = self._clock()
        self._saved = min(RESERVE, self._saved + PER_S * (now - self._at))
        self._at = now
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True
