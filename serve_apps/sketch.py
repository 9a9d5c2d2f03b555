"""A sketch of a distribution: logarithmic buckets, so that each quantile is known to within 1%.

DDSketch: Masson, Rim and Lee, VLDB 2019. Gateways count with it, so it imports nothing.
"""

from __future__ import annotations

import math
from typing import Any

RELATIVE_ACCURACY = 0.01
GAMMA = (1 + RELATIVE_ACCURACY) / (1 - RELATIVE_ACCURACY)
"""Bucket `i` holds values above `GAMMA ** (i - 1)` and at most `GAMMA ** i`."""

SMALLEST, LARGEST = 1e-9, 1e12
"""What lies outside counts as the nearer of the two, which bounds a sketch at 2,420 buckets."""

_LOG_GAMMA = math.log(GAMMA)
# So that an edge, computed, lies in the bucket that it closes.
_ROUNDING = 1e-9


class SketchBuilder:
    """Counts values that are zero or positive."""

    def __init__(self) -> None:
        self._zeros = 0
        self._buckets: dict[int, int] = {}

    def add(self, value: float, number: int = 1) -> None:
        """Count `value` so many times. Raises ValueError for one that is negative or not finite."""
        if not 0 <= value < math.inf or number < 0:
            raise ValueError(f"{number} times {value} is not in a sketch's range")
        if value == 0:
            self._zeros += number
            return
        index = bucket_of(value)
        self._buckets[index] = self._buckets.get(index, 0) + number

    def to_json(self) -> dict[str, Any]:
        """`{"zeros": 0, "buckets": [[index, count], ...]}`, by index."""
        return compact(self._zeros, self._buckets)


def bucket_of(value: float) -> int:
    """The bucket of a positive `value`."""
    return math.ceil(math.log(min(max(value, SMALLEST), LARGEST)) / _LOG_GAMMA - _ROUNDING)


def upper_edge(bucket: int) -> float:
    """The largest value of `bucket`, which is the lower edge of the next."""
    return GAMMA**bucket


def middle(bucket: int) -> float:
    """The value that is within 1% of all values of `bucket`."""
    return 2 * GAMMA**bucket / (GAMMA + 1)


def compact(zeros: int, buckets: dict[int, int]) -> dict[str, Any]:
    """How a sketch is stored: buckets that hold something, by index."""
    return {"zeros": zeros, "buckets": [[index, n] for index, n in sorted(buckets.items()) if n]}
