"""What a gate measures at the present weight, with an interval: for people to read."""

from __future__ import annotations

from dataclasses import dataclass

from serve_apps.rollout.judge import means, quantiles, rate, ratio, threshold
from serve_apps.rollout.judge.evidence import Evidence
from serve_apps.rollout.judge.sketch import Sketch
from serve_apps.rollout.judge.terms import Kind, Test


@dataclass(frozen=True, slots=True)
class Sketches:
    """Of all answers at the present weight."""

    candidate: Sketch
    baseline: Sketch


@dataclass(frozen=True, slots=True)
class Shown:
    """In the unit of the gate's limit; None for what is not known, and for a high end that nothing bounds."""

    effect: float | None = None
    low: float | None = None
    high: float | None = None


def samples(evidence: Evidence, test: Test) -> int:
    """Answers of the candidate at this weight, or pairs."""
    return evidence.mean.n if test.kind is Kind.PAIRED else evidence.counts.n_candidate


def measure(evidence: Evidence, test: Test, sketches: Sketches | None = None) -> Shown:
    """The effect and its interval."""
    low_error, high_error = (test.alpha, test.beta) if test.is_higher_worse else (test.beta, test.alpha)
    counts, effect = evidence.counts, evidence.clusters.design_effect
    match test.kind:
        case Kind.PAIRED:
            return _difference(evidence, test)
        case Kind.THRESHOLD:
            return Shown(threshold.rate(evidence.window))
        case Kind.RATIO:
            low, high = ratio.interval(counts, low_error=low_error, high_error=high_error, effect=effect)
            return Shown(_ratio(evidence), low, high)
        case Kind.RATE:
            ends = rate.interval(counts, low_error=low_error, high_error=high_error, effect=effect)
            return Shown(counts.bad_candidate / counts.n_candidate if counts.n_candidate else None, *ends)
    return _quantile(test, sketches, low_error, high_error) if sketches else Shown()


def _ratio(evidence: Evidence) -> float | None:
    counts = evidence.counts
    if not (counts.n_candidate and counts.bad_baseline):
        return None
    return counts.bad_candidate / counts.n_candidate * counts.n_baseline / counts.bad_baseline


def _quantile(test: Test, sketches: Sketches, low_error: float, high_error: float) -> Shown:
    candidate, baseline = sketches.candidate, sketches.baseline
    at = test.quantile
    if at is None or not candidate.total:
        return Shown()
    value = candidate.quantile(at)
    if test.kind is Kind.QUANTILE_LIMIT:
        ends = quantiles.interval(candidate, at, low_error=low_error, high_error=high_error)
        return Shown(value, *ends)
    if not baseline.total or not baseline.quantile(at):
        return Shown()
    ends = quantiles.ratio_interval(candidate, baseline, at, low_error=low_error, high_error=high_error)
    return Shown(value / baseline.quantile(at), *ends)


def _difference(evidence: Evidence, test: Test) -> Shown:
    """A drop where lower is worse, an increase where higher is, as the limit is."""
    mean = evidence.mean
    if not mean.n:
        return Shown()
    ends = means.interval(mean, low_error=test.alpha, high_error=test.beta)
    return Shown(mean.value, *ends)
