"""How others judge a rollout, by their documented rules; each sees one tick after the other.

Flagger, docs "Metrics analysis": a check each interval of a minute, at least 99% success and a p99 below a
limit; a good check goes a step on, the fifth bad one takes back. Kayenta, `NetflixACAJudge`: Mann-Whitney on
series of values, 98% interval, against a baseline of the same size. And a test of a fixed size, planned
beforehand, that is looked at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist
from typing import Protocol

import judge_world as world
import numpy as np
from judge_world import Arm, Floats, Tick

LIMIT, TOLERATE, MAX_DROP, ALPHA = 1.5, 0.005, 0.02, 0.05
GATES = 8
QUANTILES = (0.5, 0.95, 0.99)


class Move(StrEnum):
    """What a rule does after a tick."""

    HOLD = "hold"
    ADVANCE = "advance"
    ROLL_BACK = "roll_back"


class Rule(Protocol):
    """One rollout's judge."""

    def look(self, tick: Tick) -> Move:
        """After each tick of ten seconds."""
        ...


@dataclass(frozen=True)
class Limits:
    """Thresholds that somebody set who knows the baseline's long-run figures."""

    errors: float
    p99_s: float
    repetitions: float = 1.0
    empty: float = 1.0


_P99_S = 0.02 * float(np.exp(world.ATOM * world.atom_at(world.ttft_shares(1.0), 0.99)))
DOCUMENTED = Limits(errors=0.01, p99_s=LIMIT * _P99_S)
SAME_LIMITS = Limits(errors=LIMIT * 0.01, p99_s=LIMIT * _P99_S, repetitions=TOLERATE, empty=TOLERATE)


class Flagger:
    """A threshold over each interval; `threshold` bad checks in all take back."""

    INTERVAL = 6

    def __init__(self, limits: Limits, threshold: int = 5) -> None:
        self._limits = limits
        self._left = threshold
        self._seen: list[Arm] = []

    def look(self, tick: Tick) -> Move:
        """After each tick of ten seconds."""
        self._seen.append(tick.candidate)
        if len(self._seen) < self.INTERVAL:
            return Move.HOLD
        seen, self._seen = self._seen, []
        if self._is_good(seen):
            return Move.ADVANCE
        self._left -= 1
        return Move.HOLD if self._left else Move.ROLL_BACK

    def _is_good(self, seen: list[Arm]) -> bool:
        n = sum(arm.n for arm in seen)
        if not n:
            return False
        limits = self._limits
        p99 = 0.02 * math.exp(world.ATOM * world.atom_at(np.sum([arm.ttft for arm in seen], axis=0), 0.99))
        return (
            sum(arm.errors for arm in seen) <= limits.errors * n
            and sum(arm.repetitions for arm in seen) <= limits.repetitions * n
            and sum(arm.empty for arm in seen) <= limits.empty * n
            and p99 <= limits.p99_s
        )


class Kayenta:
    """Mann-Whitney each interval of ten minutes, on points of ten seconds; every metric is critical.

    `allowed_increase` is the effect size, a ratio of means, below which a difference does not count.
    """

    POINTS = 60

    def __init__(self, allowed_increase: float = 1.0) -> None:
        self._allowed = allowed_increase
        self._points: list[tuple[Floats, Floats]] = []

    def look(self, tick: Tick) -> Move:
        """After each tick of ten seconds."""
        if tick.candidate.n:
            # Quality counts by what is lost, so that for all metrics higher is worse.
            wrong = 1 - world.ACCURACY
            lost = (wrong + (tick.worse - tick.better) / world.PAIRS_PER_TICK, wrong)
            ours, theirs = _values(tick.candidate), _values(tick.control)
            self._points.append((np.append(ours, lost[0]), np.append(theirs, lost[1])))
        if len(self._points) < self.POINTS:
            return Move.HOLD
        ours, theirs = (np.array(side).T for side in zip(*self._points, strict=True))
        self._points = []
        pairs = zip(ours, theirs, strict=True)
        return Move.ROLL_BACK if any(self._is_high(o, t) for o, t in pairs) else Move.ADVANCE

    def _is_high(self, ours: Floats, theirs: Floats) -> bool:
        if np.array_equal(np.sort(ours), np.sort(theirs)):
            return False
        low, estimate = shift(ours, theirs, 0.98)
        is_significant = low > 0.25 * abs(estimate)
        mean = theirs.mean()
        return bool(is_significant and (mean == 0 or ours.mean() / mean >= self._allowed))


def shift(ours: Floats, theirs: Floats, confidence: float) -> tuple[float, float]:
    """Hodges and Lehmann's estimate of a shift, with the low end of its Mann-Whitney interval."""
    differences = np.sort(np.subtract.outer(ours, theirs).ravel())
    m, n = len(ours), len(theirs)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rank = math.floor(m * n / 2 - z * math.sqrt(m * n * (m + n + 1) / 12))
    return float(differences[max(rank, 0)]), float(np.median(differences))


def _values(arm: Arm) -> Floats:
    rates = np.array([arm.errors, arm.repetitions, arm.empty]) / arm.n
    ttft = [world.atom_at(arm.ttft, quantile) for quantile in QUANTILES]
    seconds = np.exp(world.ATOM * np.array([*ttft, world.atom_at(arm.itl, 0.5)]))
    return np.concatenate([rates, seconds])


class Fixed:
    """So many answers at each weight, and so many pairs once; all gates are tested when they are there."""

    ANSWERS, PAIRS = 2000, 2600

    def __init__(self) -> None:
        self._tests = 1 + (GATES - 1) * len(world.STEPS)
        self._pairs = [0, 0, 0]
        self._is_first = True
        self._clear()

    def _clear(self) -> None:
        self._counts = np.zeros((2, 4))
        self._atoms = np.zeros((2, 2, world.ATOMS), np.int64)

    def look(self, tick: Tick) -> Move:
        """After each tick of ten seconds."""
        for side, arm in enumerate((tick.candidate, tick.baseline)):
            self._counts[side] += (arm.n, arm.errors, arm.repetitions, arm.empty)
            for metric, atoms in enumerate((arm.ttft, arm.itl)):
                self._atoms[side, metric] += atoms
        if self._is_first:
            self._pairs[0] += world.PAIRS_PER_TICK
            self._pairs[1] += tick.worse
            self._pairs[2] += tick.better
        if self._counts[0, 0] < self.ANSWERS or self._pairs[0] < self.PAIRS:
            return Move.HOLD
        move = Move.ROLL_BACK if self._is_worse() else Move.ADVANCE
        self._is_first = False
        self._clear()
        return move

    def _is_worse(self) -> bool:
        level = ALPHA / self._tests
        n, m = self._counts[:, 0]
        for metric in range(1, 4):
            ours, theirs = self._counts[:, metric]
            if ours / n > TOLERATE and _p_of_split(ours, theirs, LIMIT * n / m) < level:
                return True
        for metric, quantile in ((0, 0.5), (0, 0.95), (0, 0.99), (1, 0.5)):
            at = world.atom_at(self._atoms[1, metric], quantile)
            limit = at + round(math.log(LIMIT) / world.ATOM)
            beyond = self._atoms[0, metric, limit + 1 :].sum(), self._atoms[1, metric, at + 1 :].sum()
            if _p_of_split(*beyond, n / m) < level:
                return True
        return self._is_first and self._p_of_drop() < level

    def _p_of_drop(self) -> float:
        n, worse, better = self._pairs
        drop = (worse - better) / n
        error = math.sqrt(max((worse + better) / n - drop * drop, 1e-9) / n)
        return 1 - NormalDist().cdf((drop - MAX_DROP) / error)


def _p_of_split(ours: float, theirs: float, ratio: float) -> float:
    """The chance of at least so many of ours among all bad ones, where the rates have this ratio."""
    total, share = int(ours + theirs), ratio / (1 + ratio)
    variance = total * share * (1 - share)
    if variance > 500:
        return 1 - NormalDist(total * share, math.sqrt(variance)).cdf(ours - 0.5)
    hits = np.arange(int(ours), total + 1)
    logs = [math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) for k in hits]
    return float(np.exp(np.array(logs) + hits * math.log(share) + (total - hits) * math.log1p(-share)).sum())
