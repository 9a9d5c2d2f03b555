"""Both versions on the same prompts: is the mean difference beyond a margin, or within it.

A bet on a difference `d` in [-1, 1] multiplies by `1 + l * (d - margin)`, whose mean is at most 1 while that
of the differences is at most the margin; a grid of `l` shares the stake (Waudby-Smith and Ramdas,
"Estimating means of bounded random variables by betting", JRSS B 2023, diversified Kelly betting). Pairs
must be new ones: the same prompts asked again of versions that answer the same are no further evidence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from cluster.errors import IntegrityError
from serve_apps.rollout.judge.ratio import Bets

Differences = Iterable[tuple[float, float]]
"""Candidate less baseline, in [-1, 1], each with the number of pairs that have it."""

BETS: Bets = {0.02: 0.1, 0.05: 0.2, 0.1: 0.25, 0.2: 0.25, 0.35: 0.15, 0.6: 0.05}
"""By the part of the largest bet that cannot lose everything, its share of the stake."""


def differences(candidate: Sequence[float], baseline: Sequence[float]) -> tuple[tuple[float, int], ...]:
    """From scores in [0, 1] of the same prompts, in order. Raises IntegrityError if one list is longer."""
    if len(candidate) != len(baseline):
        raise IntegrityError(
            f"{len(candidate)} scores of the candidate and {len(baseline)} of the baseline are not pairs.",
            code="judge.pairs",
        )
    return tuple(sorted(Counter(c - b for c, b in zip(candidate, baseline, strict=True)).items()))


def from_counts(pairs: int, only_candidate: int, only_baseline: int) -> tuple[tuple[float, int], ...]:
    """From counts of pairs in which only one had what is counted. Raises IntegrityError as they cannot be."""
    same = pairs - only_candidate - only_baseline
    if min(same, only_candidate, only_baseline) < 0:
        raise IntegrityError(
            f"{only_candidate} and {only_baseline} of {pairs} pairs cannot differ.", code="judge.pairs"
        )
    return tuple(pair for pair in ((-1.0, only_baseline), (0.0, same), (1.0, only_candidate)) if pair[1])


def log_factors(found: Differences, margin: float, *, above: bool) -> list[float]:
    """The logarithm of what each bet multiplies its share by; `above` bets on a mean above the margin."""
    sign = 1 if above else -1
    largest = 1 / (1 + sign * margin)
    sums = [0.0] * len(BETS)
    for difference, number in found:
        if not -1 <= difference <= 1 or number < 0:
            raise IntegrityError(
                f"{number} times {difference:g} is no difference; they are from -1 to 1.", code="judge.pairs"
            )
        for index, bet in enumerate(BETS):
            sums[index] += number * math.log1p(bet * largest * sign * (difference - margin))
    return sums


def drifts(worse: float, better: float, margin: float, *, above: bool) -> list[float]:
    """What one pair adds in the mean, where these shares of pairs differ by 1, up and down."""
    parts = [
        (share, log_factors([(difference, 1)], margin, above=above))
        for share, difference in ((worse, 1.0), (better, -1.0), (1 - worse - better, 0.0))
    ]
    return [sum(share * factors[index] for share, factors in parts) for index in range(len(BETS))]


def mcnemar(only_candidate: int, only_baseline: int) -> float:
    """The exact two-sided p-value of McNemar's test, for one look at the end; never below the least float."""
    n, fewer = only_candidate + only_baseline, min(only_candidate, only_baseline)
    if fewer < 0:
        raise IntegrityError(f"{fewer} pairs cannot be; counts are from 0.", code="judge.pairs")
    term = math.lgamma(n + 1) - math.lgamma(fewer + 1) - math.lgamma(n - fewer + 1) - n * math.log(2)
    total, part = 1.0, 1.0
    for hits in range(fewer, 0, -1):
        part *= hits / (n - hits + 1)
        total += part
        if part < 1e-17:
            break
    return min(1.0, 2 * total * math.exp(term))
