"""A sketch as a value: added, subtracted, asked for quantiles and for counts beyond a value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from cluster.errors import IntegrityError
from serve_apps.sketch import bucket_of, compact, middle, upper_edge


@dataclass(frozen=True)
class Sketch:
    """How many values lie in each bucket of `serve_apps.sketch`; `counts` must not be changed."""

    counts: Mapping[int, int] = field(default_factory=dict)
    zeros: int = 0

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Self:
        """Read what `SketchBuilder.to_json` wrote. Raises IntegrityError for anything else."""
        try:
            counts = {int(bucket): int(count) for bucket, count in tree["buckets"]}
            zeros = int(tree["zeros"])
        except (KeyError, TypeError, ValueError):
            raise _broken(
                f"{str(tree)[:80]} is not one; expected zeros and pairs of bucket and count"
            ) from None
        if len(counts) != len(tree["buckets"]):
            raise _broken("a bucket is there twice")
        return cls._checked(counts, zeros)

    @classmethod
    def _checked(cls, counts: dict[int, int], zeros: int) -> Self:
        if zeros < 0 or any(count < 0 for count in counts.values()):
            raise _broken("a count is negative; cumulative counts only grow")
        return cls({bucket: count for bucket, count in counts.items() if count}, zeros)

    def to_json(self) -> dict[str, Any]:
        """`{"zeros": 0, "buckets": [[index, count], ...]}`, by index."""
        return compact(self.zeros, dict(self.counts))

    @cached_property
    def total(self) -> int:
        """How many values there are."""
        return self.zeros + sum(self.counts.values())

    @cached_property
    def _ordered(self) -> list[int]:
        return sorted(self.counts)

    def merge(self, other: Sketch) -> Sketch:
        """Both together."""
        counts = dict(self.counts)
        for bucket, count in other.counts.items():
            counts[bucket] = counts.get(bucket, 0) + count
        return Sketch(counts, self.zeros + other.zeros)

    def minus(self, earlier: Sketch) -> Sketch:
        """What has come since `earlier`, of which this is the continuation. Raises IntegrityError if not."""
        counts = dict(self.counts)
        for bucket, count in earlier.counts.items():
            counts[bucket] = counts.get(bucket, 0) - count
        return self._checked(counts, self.zeros - earlier.zeros)

    def bucket_at(self, rank: int) -> int | None:
        """The bucket of the `rank`-th smallest value, from 1; None where that is zero.

        Raises IntegrityError for a rank that is not among the values.
        """
        if not 1 <= rank <= self.total:
            raise _broken(f"it has {self.total} values, so none of rank {rank}")
        seen = self.zeros
        if rank <= seen:
            return None
        for bucket in self._ordered:
            seen += self.counts[bucket]
            if rank <= seen:
                return bucket
        raise AssertionError("ranks up to the total have a bucket")

    def rank_of(self, quantile: float) -> int:
        """The rank of a quantile's value: the smallest that has at least this share at or below it."""
        return min(max(math.ceil(quantile * self.total), 1), self.total)

    def quantile(self, quantile: float) -> float:
        """The value, within 1%. Raises IntegrityError for an empty sketch."""
        bucket = self.bucket_at(self.rank_of(quantile))
        return 0.0 if bucket is None else middle(bucket)

    def edges_at(self, rank: int) -> tuple[float, float]:
        """Between which values the `rank`-th smallest lies. Raises IntegrityError as `bucket_at` does."""
        bucket = self.bucket_at(rank)
        return (0.0, 0.0) if bucket is None else (upper_edge(bucket - 1), upper_edge(bucket))

    def count_above(self, value: float) -> int:
        """How many lie above `value`, with that rounded up to the edge of its bucket (at most 2%)."""
        if value <= 0:
            return self.total - self.zeros if value == 0 else self.total
        last = bucket_of(value)
        return sum(count for bucket, count in self.counts.items() if bucket > last)

    def count_below(self, value: float) -> int:
        """How many lie below `value`, with that rounded down to the edge of its bucket (at most 2%)."""
        if value <= 0:
            return 0
        first = bucket_of(value)
        return self.zeros + sum(count for bucket, count in self.counts.items() if bucket < first)


EMPTY = Sketch()


def merged(sketches: Iterable[Sketch]) -> Sketch:
    """All together."""
    total = EMPTY
    for sketch in sketches:
        total = total.merge(sketch)
    return total


def _broken(what: str) -> IntegrityError:
    return IntegrityError(f"A sketch cannot be used: {what}.", code="judge.sketch")
