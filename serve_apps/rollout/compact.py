"""Between sketches as they are stored and as they are computed with; quick, since looks do it often."""

from __future__ import annotations

from cluster.tally import Sketch as Compact
from serve_apps.rollout.judge.sketch import EMPTY, Sketch


def read(compact: Compact | None) -> Sketch:
    """To compute with; an empty one for none."""
    return EMPTY if compact is None else Sketch(dict(compact.buckets), compact.zeros)


def write(sketch: Sketch) -> Compact:
    """To store."""
    return Compact.model_construct(zeros=sketch.zeros, buckets=tuple(sorted(sketch.counts.items())))


def merged(one: Compact | None, *others: Compact) -> Compact:
    """All of them together; one of several at least is there."""
    first, *more = others if one is None else (one, *others)
    if not more:
        return first
    counts, zeros = dict(first.buckets), first.zeros
    for part in more:
        zeros += part.zeros
        for bucket, count in part.buckets:
            counts[bucket] = counts.get(bucket, 0) + count
    return write(Sketch(counts, zeros))
