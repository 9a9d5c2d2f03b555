"""Where a quantile is, from a sketch, at any time: for display, and for limits of its own.

Howard and Ramdas, "Sequential estimation of quantiles with applications to A/B testing and best-arm
identification", Bernoulli 2022. Ends are edges of the sketch's buckets; None is no upper end.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from serve_apps.rollout.judge import beta_binomial
from serve_apps.rollout.judge.sketch import Sketch

Interval = tuple[float, float | None]


def band_width(n: int, error: float) -> float:
    """How far the whole empirical distribution of n >= 1 values is ever from the true one, but for `error`.

    A law of the iterated logarithm with the constants of the paper's equation for all quantiles at once.
    """
    return 0.85 * math.sqrt((math.log(math.log(n) + 1) + 0.8 * math.log(1612 / error)) / n)


def band(sketch: Sketch, quantile: float, *, error: float) -> Interval:
    """A quantile's interval that holds together with those of all other quantiles."""
    if not sketch.total:
        return 0.0, None
    width = band_width(sketch.total, error)
    below = math.ceil((quantile - width) * sketch.total)
    return _between(sketch, below, math.floor((quantile + width) * sketch.total) + 1)


def interval(sketch: Sketch, quantile: float, *, low_error: float, high_error: float) -> Interval:
    """The interval of one quantile that was chosen before: much narrower, above all in the tails.

    As many values lie at or below the true quantile as a binomial with this share has hits.
    """
    n = sketch.total
    least, _ = beta_binomial.accepted(n, quantile, low_error)
    _, most = beta_binomial.accepted(n, quantile, high_error)
    return _between(sketch, least, most + 1)


def ratio_interval(
    candidate: Sketch, baseline: Sketch, quantile: float, *, low_error: float, high_error: float
) -> Interval:
    """Of the candidate's quantile over the baseline's, by the same count test as the verdict.

    At which multiples of the baseline's quantile the candidate's share beyond is no surprise. The
    baseline's quantile is taken as known, so this is for reading.
    """
    if not (candidate.total and baseline.total):
        return 0.0, None
    rank = baseline.rank_of(quantile)
    at = baseline.quantile(quantile)
    upper = quantile >= 0.5
    beyond = baseline.total - rank if upper else rank
    split = candidate.total / (candidate.total + baseline.total)

    def no_surprise(error: float) -> tuple[int, int]:
        return _accepted(beyond, candidate.total, split, -math.log(error))

    if upper:
        least = candidate.total - no_surprise(low_error)[1]
        most = candidate.total - no_surprise(high_error)[0] + 1
    else:
        least, most = no_surprise(low_error)[0], no_surprise(high_error)[1] + 1
    low, high = _between(candidate, least, most)
    return (low / at, high / at if high is not None else None) if at else (0.0, None)


def _accepted(fixed: int, n: int, share: float, bound: float) -> tuple[int, int]:
    """The least and the most of `n` that are no surprise beside `fixed` others, where `share` is theirs."""
    near = min(round(fixed * share / (1 - share)), n)
    return _last(near, 0, fixed, share, bound), _last(near, n, fixed, share, bound)


def _last(near: int, far: int, fixed: int, share: float, bound: float) -> int:
    def fits(hits: int) -> bool:
        return beta_binomial.log_e(hits, hits + fixed, share) < bound

    return far if fits(far) else _bisect(near, far, fits)


def _bisect(inside: int, outside: int, fits: Callable[[int], bool]) -> int:
    while abs(outside - inside) > 1:
        half = (inside + outside) // 2
        inside, outside = (half, outside) if fits(half) else (inside, half)
    return inside


def _between(sketch: Sketch, least: int, most: int) -> Interval:
    low = sketch.edges_at(least)[0] if least >= 1 else 0.0
    return low, sketch.edges_at(most)[1] if most <= sketch.total else None
