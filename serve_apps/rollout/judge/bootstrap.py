"""The paired bootstrap: an interval of the mean difference, for people to read (Koehn, EMNLP 2004)."""

from __future__ import annotations

import numpy as np

from cluster.errors import IntegrityError
from serve_apps.rollout.judge.paired import Differences

RESAMPLES = 2000


def interval(found: Differences, *, error: float, seed: int) -> tuple[float, float]:
    """Between which values the mean difference of resampled pairs lies, but for `error` of them.

    Good for one look at the end. Raises IntegrityError where there is no pair.
    """
    values, numbers = (np.asarray(part) for part in zip(*([*found] or [(0.0, 0)]), strict=True))
    pairs = round(numbers.sum())
    if pairs < 1:
        raise IntegrityError("There are no pairs to resample.", code="judge.pairs")
    drawn = np.random.default_rng(seed).multinomial(pairs, numbers / numbers.sum(), size=RESAMPLES)
    low, high = np.quantile(drawn @ values / pairs, [error / 2, 1 - error / 2])
    return float(low), float(high)
