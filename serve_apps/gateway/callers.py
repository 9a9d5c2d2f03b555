"""Who was counted before: what one caller does again and again is not spread over the versions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from cluster.tally import PAIRS

MOST = 10_000
"""So many callers are told apart within a minute; each request of those who come after counts as a caller."""

_WINDOW_S = 60


class Callers:
    """Of one version, within one minute of the requests' own time; then all are forgotten."""

    def __init__(self) -> None:
        self._minute = 0
        self._seen: dict[bytes, dict[str, int]] = {}

    def at(self, moment: datetime) -> None:
        """A request began then. One that ends late counts among those that end with it."""
        minute = int(moment.timestamp()) // _WINDOW_S
        if minute > self._minute:
            self._minute, self._seen = minute, {}

    def count(self, caller: bytes, names: Sequence[str], counts: Counter[str]) -> None:
        """Add to `counts` the pairs that it makes with what was counted of this caller before.

        A caller's n-th makes n - 1 more of them, in either order; an empty `caller` has none.
        """
        if not caller:
            return
        own = self._seen.get(caller)
        if own is None:
            if len(self._seen) < MOST:
                self._seen[caller] = dict.fromkeys(names, 1)
            return
        for name in names:
            before = own.get(name, 0)
            own[name] = before + 1
            if before:
                counts[PAIRS + name] += 2 * before
