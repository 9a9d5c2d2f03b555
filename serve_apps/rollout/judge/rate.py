"""Is the candidate's own bad rate at most a constant, or at least, whatever the baseline's is.

A bet on odds of `r` times the limit's multiplies by `r ** bad / (1 - limit + r * limit) ** n`, whose mean is
at most 1 while every request's chance to be bad is on the hypothesis' side of the limit, be it constant or
not: a mixture of Bernoulli likelihood ratios (Robbins 1970), over a grid, so that it can be restarted and
its state does not grow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from serve_apps.rollout.judge import beta_binomial
from serve_apps.rollout.judge.blocks import Block
from serve_apps.rollout.judge.ratio import Bets


def log_factors(blocks: Iterable[Block], limit: float, bets: Bets) -> list[float]:
    """The logarithm of what each bet multiplies its share by, over all blocks together."""
    answers = bad = 0
    for block in blocks:
        answers += block.n_candidate
        bad += block.bad_candidate
    return [bad * math.log(bet) - answers * math.log1p(limit * (bet - 1)) for bet in bets]


def drifts(candidate: float, limit: float, bets: Bets) -> list[float]:
    """What one answer, bad with the chance `candidate`, adds to each bet's logarithm in the mean."""
    return [candidate * math.log(bet) - math.log1p(limit * (bet - 1)) for bet in bets]


def interval(
    block: Block, *, low_error: float, high_error: float, effect: float = 1.0
) -> tuple[float, float]:
    """Confidence sequence of the candidate's rate, each end with an error of its own.

    `effect`: the design effect, so many requests count as one.
    """
    return beta_binomial.interval(
        block.bad_candidate / effect, block.n_candidate / effect, low_error=low_error, high_error=high_error
    )
