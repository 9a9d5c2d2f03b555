"""A plain threshold, as people think of it: more than so much, for so long.

Time is cut into fifths of that duration, and the limit counts as exceeded while it is exceeded in each of
those that have requests, which must be most. So one bad moment is not enough, and a look that happens to
see few requests does not end it.
"""

from __future__ import annotations

import math

from cluster.config import StrictModel

PARTS = 5


class Part(StrictModel):
    """What was counted in the `index`-th part since the epoch."""

    index: int
    n: int
    bad: int


class Window(StrictModel):
    """The last parts, oldest first; `began` and `seen`: when the first and the last look was."""

    parts: tuple[Part, ...] = ()
    began: float | None = None
    seen: float = 0.0


def update(window: Window, n: int, bad: int, *, now: float, duration_s: float) -> Window:
    """With what a look at `now` has counted; a clock that went back stands still until it has caught up."""
    seen = max(window.seen, now)
    index = math.floor(seen / (duration_s / PARTS))
    *before, last = window.parts or (Part(index=index, n=0, bad=0),)
    if last.index == index:
        last = Part(index=index, n=last.n + n, bad=last.bad + bad)
        parts = [*before, last]
    else:
        parts = [*before, last, Part(index=index, n=n, bad=bad)]
    kept = tuple(part for part in parts if part.index >= index - PARTS)
    return Window(parts=kept, began=seen if window.began is None else window.began, seen=seen)


def covers(window: Window, duration_s: float) -> bool:
    """Whether looks have gone on for so long."""
    return window.began is not None and window.seen - window.began >= duration_s


def exceeded(window: Window, limit: float, duration_s: float, *, higher: bool) -> bool:
    """Whether the share of bad requests was beyond `limit` in each part that has any, over the duration."""
    shares = [part.bad / part.n for part in window.parts if part.n]
    if len(shares) <= PARTS // 2 or not covers(window, duration_s):
        return False
    return all(_beyond(share, limit, higher) for share in shares)


def is_within(window: Window, limit: float, duration_s: float, *, higher: bool) -> bool:
    """Whether it was within `limit` over the duration as a whole."""
    share = rate(window)
    return share is not None and covers(window, duration_s) and not _beyond(share, limit, higher)


def rate(window: Window) -> float | None:
    """The share of bad requests in all of the window; None without requests."""
    n = sum(part.n for part in window.parts)
    return sum(part.bad for part in window.parts) / n if n else None


def _beyond(share: float, limit: float, higher: bool) -> bool:
    return share > limit if higher else share < limit
