"""Confidence sequence of the mean of differences in [-1, 1]: the means that the bets do not refute.

Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 2023, by the bets
of `paired`, so that an interval leaves out a margin just when the verdict on that margin is reached. To be
of constant size it knows the differences on a grid. What lies between two of its points counts as parts of
both, which keeps the mean and, the logarithm being concave, makes the interval wider and never narrower.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from cluster.config import StrictModel
from serve_apps.rollout.judge import paired, wealth
from serve_apps.rollout.judge.paired import BETS

_STEPS = 10
_HALVINGS = 16


class Mean(StrictModel):
    """`n` differences and their sum; `weights`: how many lie at each point of the grid, from -1 to 1."""

    n: int = 0
    total: float = 0.0
    weights: tuple[float, ...] = (0.0,) * (2 * _STEPS + 1)

    @property
    def value(self) -> float:
        """The mean of at least one difference."""
        return self.total / self.n

    @property
    def points(self) -> list[tuple[float, float]]:
        """Points that have a weight, with it."""
        return [(at / _STEPS - 1, weight) for at, weight in enumerate(self.weights) if weight]


def update(mean: Mean, found: Iterable[tuple[float, int]]) -> Mean:
    """With more differences, in [-1, 1], each with the number of pairs that have it."""
    n, total, weights = mean.n, mean.total, list(mean.weights)
    for difference, number in found:
        n, total = n + number, total + number * difference
        at = (difference + 1) * _STEPS
        below = min(math.floor(at), 2 * _STEPS - 1)
        weights[below + 1] += number * (at - below)
        weights[below] += number * (1 - (at - below))
    return Mean(n=n, total=total, weights=tuple(weights))


def interval(mean: Mean, *, low_error: float, high_error: float) -> tuple[float, float]:
    """Where the mean is, each end with an error of its own; from -1 to 1 before the first difference."""
    if not mean.n:
        return -1.0, 1.0
    low = _refuted(mean, -1.0, -math.log(low_error), above=True)
    return low, _refuted(mean, 1.0, -math.log(high_error), above=False)


def _refuted(mean: Mean, far: float, bound: float, *, above: bool) -> float:
    """The margin nearest to the mean that the bets on the mean being beyond it refute."""
    points, near = mean.points, mean.value
    stake = wealth.staked(BETS.values())
    for _ in range(_HALVINGS):
        half = (near + far) / 2
        if half in (near, far):
            break
        factors = paired.log_factors(points, half, above=above)
        is_refuted = wealth.log_value(wealth.grow(stake, factors)) >= bound
        near, far = (near, half) if is_refuted else (half, far)
    return far
