"""How many more answers of the candidate a verdict takes, if they come as those before."""

from __future__ import annotations

import math

from serve_apps.rollout.judge.evidence import Evidence
from serve_apps.rollout.judge.growth import Changes, Rates, answers_to_verdicts
from serve_apps.rollout.judge.means import Mean
from serve_apps.rollout.judge.shown import samples
from serve_apps.rollout.judge.terms import Kind, Test


def answers_missing(evidence: Evidence, test: Test) -> int | None:
    """To the nearer verdict; None where what was seen so far leads to none, or for a plain threshold."""
    seen = samples(evidence, test)
    short = max(test.min_samples - seen, 0)
    if test.kind is Kind.THRESHOLD or not seen:
        return short or None
    outlook = _changes(evidence.mean) if test.kind is Kind.PAIRED else _rates(evidence)
    nearer = min((n for n in answers_to_verdicts(evidence, test, outlook) if n is not None), default=None)
    return None if nearer is None else max(math.ceil(nearer), short)


def _rates(evidence: Evidence) -> Rates:
    counts = evidence.counts
    ours = _share(counts.bad_candidate, counts.n_candidate)
    if not counts.n_baseline:
        return Rates(ours)
    theirs = _share(counts.bad_baseline, counts.n_baseline)
    return Rates(ours, theirs, counts.n_candidate / counts.n_baseline)


def _share(bad: int, n: int) -> float:
    # None bad in a hundred does not say that there will be none in a million.
    return max(bad, 0.5) / n


def _changes(mean: Mean) -> Changes:
    """Pairs that differ by 1 or not at all, with the mean and the mean square that were seen."""
    square = sum(weight * difference * difference for difference, weight in mean.points)
    changed = max(square, 0.5) / mean.n
    changed = min(max(changed, abs(mean.value)), 1.0)
    return Changes((changed + mean.value) / 2, (changed - mean.value) / 2)
