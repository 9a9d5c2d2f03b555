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


def merged(one: Compact | None, other: Compact) -> Compact:
    """Both together."""
    return other if one is None else write(read(one).merge(read(other)))
