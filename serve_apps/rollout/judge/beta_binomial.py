"""Confidence sequences of a proportion, by the beta-binomial mixture (Robbins 1970; Howard et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable

_PRIOR = 0.5
_LOG_PRIOR = math.lgamma(2 * _PRIOR) - 2 * math.lgamma(_PRIOR)
_FARTHEST = 80.0  # in log odds


def log_e(hits: float, n: float, share: float) -> float:
    """The evidence that the proportion is not `share`, which is in (0, 1): a log e-value."""
    return _log_marginal(hits, n) - hits * math.log(share) - (n - hits) * math.log1p(-share)


def interval(hits: float, n: float, *, low_error: float, high_error: float) -> tuple[float, float]:
    """Within which proportions `hits` of `n` are no surprise.

    However often one looks, the low end is ever above the proportion with a chance of at most `low_error`,
    and the high end below it with `high_error`.
    """
    marginal = _log_marginal(hits, n)

    def doubt(log_odds: float) -> float:
        # log1p(exp(x)) on the side where it does not overflow.
        positive, negative = max(log_odds, 0.0), max(-log_odds, 0.0)
        rest = math.log1p(math.exp(-abs(log_odds)))
        return marginal + hits * (negative + rest) + (n - hits) * (positive + rest)

    at = math.log((hits + 1e-9) / (n - hits + 1e-9))
    low = 0.0 if hits == 0 else _share(_cross(doubt, at, -_FARTHEST, -math.log(low_error)))
    high = 1.0 if hits == n else _share(_cross(doubt, at, _FARTHEST, -math.log(high_error)))
    return low, high


def accepted(n: int, share: float, error: float) -> tuple[int, int]:
    """The least and the most hits of `n` that are no surprise where the proportion is `share`."""
    bound, near = -math.log(error), min(max(round(n * share), 0), n)

    def edge(far: int) -> int:
        inside, outside = near, far
        if log_e(far, n, share) < bound:
            return far
        while abs(outside - inside) > 1:
            half = (inside + outside) // 2
            inside, outside = (half, outside) if log_e(half, n, share) < bound else (inside, half)
        return inside

    return edge(0), edge(n)


def _log_marginal(hits: float, n: float) -> float:
    gamma = math.lgamma
    return _LOG_PRIOR + gamma(hits + _PRIOR) + gamma(n - hits + _PRIOR) - gamma(n + 2 * _PRIOR)


def _cross(doubt: Callable[[float], float], inside: float, outside: float, bound: float) -> float:
    for _ in range(60):
        half = (inside + outside) / 2
        inside, outside = (half, outside) if doubt(half) < bound else (inside, half)
    return outside


def _share(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds))
