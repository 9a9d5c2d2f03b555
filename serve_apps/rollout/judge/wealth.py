"""An e-process: what bets against a hypothesis have made of a stake of 1.

While the hypothesis holds no betting makes money in the mean, so the chance that the stake is ever
multiplied by 1/alpha is at most alpha, however often somebody looks (Ville's inequality; Shafer 2021,
Ramdas et al. 2023). Several bets share the stake, because how wrong the hypothesis is is not known; all is
kept as logarithms, so nothing overflows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from cluster.config import StrictModel

_KEPT = 0.25


class Wealth(StrictModel):
    """`logs`: of what each bet has; `kept`: what is kept for later starts."""

    logs: tuple[float, ...]
    kept: float = 0.0


def staked(shares: Iterable[float]) -> Wealth:
    """The whole stake on bets that have these shares of it, which sum to 1."""
    return Wealth(logs=tuple(math.log(share) for share in shares))


def reserved(shares: Iterable[float]) -> Wealth:
    """Three quarters of the stake; the last is kept for `restart`."""
    return Wealth(logs=tuple(math.log((1 - _KEPT) * share) for share in shares), kept=_KEPT)


def restart(wealth: Wealth, shares: Iterable[float]) -> Wealth:
    """Begin anew with a part of what is kept, beside the bets that run.

    The quarter is spent in parts of 1/(j(j+1)), so some is always left. What begins late thus finds bets
    that early data have not eaten.
    """
    left = wealth.kept / (1 + wealth.kept / _KEPT)
    spent = wealth.kept - left
    logs = (_log_add(log, math.log(spent * share)) for log, share in zip(wealth.logs, shares, strict=True))
    return Wealth(logs=tuple(logs), kept=left)


def grow(wealth: Wealth, factors: Sequence[float]) -> Wealth:
    """After a block: `factors` are the logarithms of what each bet multiplies its share by."""
    return Wealth(
        logs=tuple(log + factor for log, factor in zip(wealth.logs, factors, strict=True)), kept=wealth.kept
    )


def shrink(wealth: Wealth, shares: Iterable[float], times: float) -> Wealth:
    """As if what each bet has gained until now had been gained with all factors to the power of `times` <= 1.

    What was lost stays lost, so that no bet has more than before.
    """
    stakes = [math.log((1 - wealth.kept) * share) for share in shares]
    logs = zip(wealth.logs, stakes, strict=True)
    return Wealth(
        logs=tuple(stake + (log - stake) * times if log > stake else log for log, stake in logs),
        kept=wealth.kept,
    )


def log_value(wealth: Wealth) -> float:
    """The logarithm of the e-value: of all that there is, what is kept included."""
    return _log_sum(wealth.logs, wealth.kept)


def answers_until(wealth: Wealth, drifts: Sequence[float], target: float) -> float | None:
    """How many answers, which grow the bets by `drifts` each, bring the log e-value to `target`.

    None where no number does. As on the way of the mean, so neither luck nor overshoot is in it.
    """
    if log_value(wealth) >= target:
        return 0.0
    best = max(drifts)
    if best <= 0:
        return None

    def after(answers: float) -> float:
        logs = [log + answers * drift for log, drift in zip(wealth.logs, drifts, strict=True)]
        return _log_sum(logs, wealth.kept)

    low, high = 0.0, 1.0
    while after(high) < target:
        low, high = high, 2 * high
        if high > 1e15:
            return None
    for _ in range(40):
        # Convex in the number of answers, so it crosses the target once.
        half = (low + high) / 2
        low, high = (half, high) if after(half) < target else (low, half)
    return high


def _log_sum(logs: Sequence[float], kept: float) -> float:
    parts = (*logs, math.log(kept)) if kept else logs
    most = max(parts)
    return most + math.log(sum(math.exp(part - most) for part in parts))


def _log_add(one: float, other: float) -> float:
    most = max(one, other)
    return most + math.log1p(math.exp(min(one, other) - most))
