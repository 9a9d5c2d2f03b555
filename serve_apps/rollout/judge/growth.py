"""How fast evidence grows in the mean, and so how many answers a verdict takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from serve_apps.rollout.judge import paired, rate, ratio, wealth
from serve_apps.rollout.judge.evidence import Evidence, bad_limit, bets_of
from serve_apps.rollout.judge.terms import RATIOS, Test

Drifts = tuple[list[float], list[float]]
"""What an answer adds to each bet against the candidate, and to each for it."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Bad shares, and the candidate's answers for each of the baseline's."""

    candidate: float
    baseline: float = 0.0
    per_baseline: float = 0.0


@dataclass(frozen=True, slots=True)
class Changes:
    """Shares of pairs that differ by 1, for the worse and for the better."""

    worse: float
    better: float


def answers_to_verdicts(
    evidence: Evidence, test: Test, outlook: Rates | Changes
) -> tuple[float | None, float | None]:
    """How many more answers it takes to fail, and to pass; None where no number does."""
    fail, passed = -math.log(test.alpha), -math.log(test.beta)
    against, in_favour = _tempered(evidence, _drifts(test, outlook))
    to_fail = wealth.answers_until(evidence.worse, against, fail)
    to_pass = wealth.answers_until(evidence.fine, in_favour, passed)
    if not (evidence.intolerable and evidence.tolerable and isinstance(outlook, Rates)):
        return to_fail, to_pass
    against, in_favour = _tempered(evidence, _drifts_of_rate(test, outlook.candidate, test.tolerate or 0.0))
    also = wealth.answers_until(evidence.intolerable, against, fail)
    instead = wealth.answers_until(evidence.tolerable, in_favour, passed)
    return (
        None if to_fail is None or also is None else max(to_fail, also),
        min((answers for answers in (to_pass, instead) if answers is not None), default=None),
    )


def _tempered(evidence: Evidence, drifts: Drifts) -> Drifts:
    effect = evidence.clusters.design_effect
    against, in_favour = drifts
    return [drift / effect for drift in against], [drift / effect for drift in in_favour]


def _drifts(test: Test, outlook: Rates | Changes) -> Drifts:
    if isinstance(outlook, Changes):
        return (
            paired.drifts(outlook.worse, outlook.better, test.limit, above=True),
            paired.drifts(outlook.worse, outlook.better, test.limit, above=False),
        )
    if test.kind not in RATIOS:
        return _drifts_of_rate(test, outlook.candidate, bad_limit(test))
    above, below = bets_of(test)
    if not outlook.per_baseline:
        return [0.0] * len(above), [0.0] * len(below)
    shares = (outlook.candidate, outlook.baseline, outlook.per_baseline, bad_limit(test))
    return ratio.drifts(*shares, above), ratio.drifts(*shares, below)


def _drifts_of_rate(test: Test, share: float, limit: float) -> Drifts:
    above, below = bets_of(test)
    return rate.drifts(share, limit, above), rate.drifts(share, limit, below)
