"""Is the candidate's rate at most so many times the baseline's, or at least: a test that needs four counts.

Within a block the chance that a bad request is the candidate's depends on the ratio of the rates alone, not
on their height, so nothing is assumed of how that drifts (Lindon and Malek, "Anytime-valid inference for
multinomial count data", NeurIPS 2022; Netflix's count test). A bet on `r` times the limit multiplies by

    (t_r / t_1) ** bad_candidate * ((1 - t_r) / (1 - t_1)) ** bad_baseline,
    t_r = r * limit * n_candidate / (r * limit * n_candidate + n_baseline)

whose mean is at most 1 under `p_candidate <= limit * p_baseline` for r > 1, and under `>=` for r < 1:
it is (1 + p_c (a - 1)) ** n_c * (1 + p_b (b - 1)) ** n_b <= exp(p_b (limit n_c (a - 1) + n_b (b - 1))) = 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from serve_apps.rollout.judge import beta_binomial
from serve_apps.rollout.judge.blocks import Block

Bets = Mapping[float, float]
"""By the multiple of the limit that is bet on, its share of the stake."""

ABOVE: Bets = {1.25: 0.1, 1.5: 0.2, 2.0: 0.25, 2.7: 0.2, 4.0: 0.12, 8.0: 0.07, 25.0: 0.04, 80.0: 0.02}
BELOW: Bets = {0.85: 0.15, 0.7: 0.3, 0.55: 0.2, 0.4: 0.15, 0.25: 0.1, 0.1: 0.07, 0.02: 0.03}


def log_factors(blocks: Iterable[Block], limit: float, bets: Bets) -> list[float]:
    """The logarithm of what each bet multiplies its share by, over all blocks together."""
    sums = [0.0] * len(bets)
    for block in blocks:
        ours, bad = limit * block.n_candidate, block.bad_candidate + block.bad_baseline
        if not (block.n_candidate and block.n_baseline):
            continue
        both = math.log(ours + block.n_baseline)
        for index, bet in enumerate(bets):
            sums[index] += block.bad_candidate * math.log(bet) + bad * (
                both - math.log(bet * ours + block.n_baseline)
            )
    return sums


def drifts(candidate: float, baseline: float, per_baseline: float, limit: float, bets: Bets) -> list[float]:
    """What one answer of the candidate adds to each bet's logarithm in the mean.

    `candidate`, `baseline`: bad shares; `per_baseline`: the candidate's answers for each of the baseline's.
    """
    bad = candidate + baseline / per_baseline
    ours = limit * per_baseline
    return [candidate * math.log(bet) + bad * (math.log1p(ours) - math.log1p(bet * ours)) for bet in bets]


def interval(
    block: Block, *, low_error: float, high_error: float, effect: float = 1.0
) -> tuple[float, float | None]:
    """Confidence sequence of the ratio of the rates, from totals at one weight; None for no upper end.

    By the split of bad requests between the two, each end with an error of its own. It supposes that
    the ratio has been one and the same, and is for reading: verdicts come from the bets. `effect`: the
    design effect, so many bad requests count as one.
    """
    if not (block.n_candidate and block.n_baseline):
        return 0.0, None
    low, high = beta_binomial.interval(
        block.bad_candidate / effect,
        (block.bad_candidate + block.bad_baseline) / effect,
        low_error=low_error,
        high_error=high_error,
    )
    scale = block.n_baseline / block.n_candidate
    return scale * low / (1 - low), None if high == 1 else scale * high / (1 - high)
