"""Blocks: what candidate and baseline did at the same time, as four counts.

Every comparison is one of counts within a block, so that whatever moves both at once (load, a burst
of errors) moves neither against the other.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.errors import IntegrityError
from serve_apps.rollout.judge.sketch import Sketch
from serve_apps.rollout.judge.terms import Direction
from serve_apps.sketch import upper_edge

MIN_TAIL = 10
"""So many values of the baseline's past must lie beyond its quantile before that is compared with."""


@dataclass(frozen=True, slots=True)
class Block:
    """Requests, and bad ones among them, of one look, one weight and one stratum.

    `pairs_…`: of requests of one caller, with those before the look, and `bad_pairs_…` those of them where
    both are bad; 0 where nobody counts by caller.

    Raises IntegrityError for counts that cannot be.
    """

    n_candidate: int = 0
    bad_candidate: int = 0
    n_baseline: int = 0
    bad_baseline: int = 0
    pairs_candidate: int = 0
    bad_pairs_candidate: int = 0
    pairs_baseline: int = 0
    bad_pairs_baseline: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.bad_candidate <= self.n_candidate and 0 <= self.bad_baseline <= self.n_baseline):
            raise IntegrityError(
                f"{self.bad_candidate} bad of {self.n_candidate} and {self.bad_baseline} bad of "
                f"{self.n_baseline} cannot be; bad requests are some of all, from 0.",
                code="judge.counts",
            )

    def plus(self, other: Block) -> Block:
        """Both together."""
        return Block(
            self.n_candidate + other.n_candidate,
            self.bad_candidate + other.bad_candidate,
            self.n_baseline + other.n_baseline,
            self.bad_baseline + other.bad_baseline,
            self.pairs_candidate + other.pairs_candidate,
            self.bad_pairs_candidate + other.bad_pairs_candidate,
            self.pairs_baseline + other.pairs_baseline,
            self.bad_pairs_baseline + other.bad_pairs_baseline,
        )


def exceedances(
    candidate: Sketch,
    baseline: Sketch,
    past: Sketch,
    *,
    quantile: float,
    limit: float,
    direction: Direction = Direction.HIGHER,
) -> Block | None:
    """A look's increments of both, by the quantile that the baseline had before it; None if `past` is thin.

    Bad is what lies beyond the quantile of `past` for the baseline, and beyond `limit` times that for the
    candidate: a candidate whose quantile is at most `limit` times the baseline's has no larger share of it.
    """
    if past.total * min(quantile, 1 - quantile) < MIN_TAIL:
        return None
    bucket = past.bucket_at(past.rank_of(quantile))
    if bucket is None:
        return None
    if direction is Direction.HIGHER:
        edge = upper_edge(bucket)
        bad = candidate.count_above(limit * edge), _count_from(baseline, bucket + 1)
    else:
        edge = upper_edge(bucket - 1)
        bad = candidate.count_below(limit * edge), baseline.total - _count_from(baseline, bucket)
    return Block(candidate.total, bad[0], baseline.total, bad[1])


def beyond(candidate: Sketch, *, limit: float, direction: Direction = Direction.HIGHER) -> Block:
    """A look's increment of the candidate alone; bad is what lies beyond the absolute `limit`."""
    count = candidate.count_above if direction is Direction.HIGHER else candidate.count_below
    return Block(candidate.total, count(limit))


def _count_from(sketch: Sketch, bucket: int) -> int:
    return sum(count for index, count in sketch.counts.items() if index >= bucket)
