"""How long a replica waits before it loads, where those before it were lost again and again.

A storm is told by short lives, not by the number of losses: a replica that has served for a while was
worth its start, however many others are lost beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile

from cluster.state.losses import Life

WINDOW = timedelta(minutes=10)
"""Older losses count for nothing."""
EARLY = timedelta(seconds=15)
"""A replica lost sooner after it had proven itself was lost early."""
FREE = 3
"""So many early losses in a row are made good without a pause."""
FIRST_S, LONGEST_S = 2.0, 60.0


@dataclass(frozen=True, slots=True)
class Pause:
    """When a replica may load, and after how many early losses in a row."""

    until: datetime
    losses: int

    @property
    def reason(self) -> str:
        """For people."""
        return (
            f"the last {self.losses} replicas of the version were lost within "
            f"{EARLY.total_seconds():.0f} s of serving"
        )


def pause(lives: Iterable[Life], now: datetime) -> Pause | None:
    """What these lost replicas of a version mean for one that starts now; None for no pause.

    It counts the early losses since the last that was none: beyond three, the pause is 2 s from the
    newest loss on, and twice as long for each further one, up to a minute.
    """
    recent = sorted((life for life in lives if life.lost_at > now - WINDOW), key=_place, reverse=True)
    storm = list(takewhile(_is_early, recent))
    if len(storm) <= FREE:
        return None
    longest = timedelta(seconds=min(FIRST_S * 2 ** (len(storm) - FREE - 1), LONGEST_S))
    # Another host's clock may run ahead of this one's.
    until = min(storm[0].lost_at, now) + longest
    return Pause(until, len(storm)) if until > now else None


def _place(life: Life) -> tuple[datetime, bool]:
    """Of two that were lost at once, the one that was not lost early counts as the newer."""
    return life.lost_at, not _is_early(life)


def _is_early(life: Life) -> bool:
    return life.proven_at is not None and life.lost_at - life.proven_at < EARLY
