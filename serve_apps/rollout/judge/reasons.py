"""A finding in words, with both numbers."""

from __future__ import annotations

from serve_apps.rollout.judge.evidence import Evidence
from serve_apps.rollout.judge.shown import Shown, samples
from serve_apps.rollout.judge.terms import RATIOS, Kind, Test


def sentence(test: Test, verdict: str, evidence: Evidence, shown: Shown) -> str:
    """A clause that follows the gate's name."""
    seen = samples(evidence, test)
    if not seen:
        return "nothing of the candidate has been counted yet"
    if seen < test.min_samples:
        return f"{seen:,} of the {test.min_samples:,} {_unit(test)} that it asks for"
    tolerated = "" if verdict == "fail" else _tolerated(test, evidence)
    end = f", not decided after {seen:,} {_unit(test)}" if verdict == "inconclusive" else ""
    return f"{_measured(test, evidence, shown)}, limit {_limit(test)}{tolerated}{end}"


def _measured(test: Test, evidence: Evidence, shown: Shown) -> str:
    counts = evidence.counts
    if test.kind is Kind.RATIO:
        ours = _percent(counts.bad_candidate / counts.n_candidate)
        if not counts.n_baseline:
            return f"{ours}, with nothing of the baseline to compare with"
        theirs = _percent(counts.bad_baseline / counts.n_baseline)
        times = f": {shown.effect:.3g} times{_interval(test, shown)}" if shown.effect is not None else ""
        return f"{ours} against {theirs}{times}"
    if shown.effect is None:
        return _beyond(test, evidence)
    return f"{_written(test, shown.effect)}{_interval(test, shown)}"


def _beyond(test: Test, evidence: Evidence) -> str:
    """A quantile without its sketches: shares beyond it, which are what is compared."""
    counts = evidence.counts
    at = f"p{100 * (test.quantile or 0):g}"
    ours = _percent(counts.bad_candidate / counts.n_candidate)
    if test.kind is Kind.QUANTILE_LIMIT or not counts.n_baseline:
        return f"{ours} beyond the limit of {at}"
    theirs = _percent(counts.bad_baseline / counts.n_baseline)
    return f"{ours} beyond the limit of {at}, {theirs} of the baseline beyond {at}"


def _interval(test: Test, shown: Shown) -> str:
    if shown.low is None:
        return ""
    low = _written(test, shown.low, unit=False)
    if shown.high is None:
        return f" (at {'most' if test.below_zero else 'least'} {low})"
    high = _written(test, shown.high, unit=False)
    return f" ({high} to {low})" if test.below_zero else f" ({low} to {high})"


def _limit(test: Test) -> str:
    return _written(test, test.limit, unit=test.kind not in RATIOS)


def _tolerated(test: Test, evidence: Evidence) -> str:
    return f", {_percent(test.tolerate)} tolerated" if test.tolerate is not None else ""


def _written(test: Test, value: float, *, unit: bool = True) -> str:
    if test.kind in RATIOS:
        return f"{value:.3g}{' times' if unit else ''}"
    if test.kind is Kind.QUANTILE_LIMIT:
        return f"{-value if test.below_zero else value:.3g}"
    if test.kind is Kind.PAIRED:
        return f"{100 * value:.1f}{' points' if unit else ''}"
    return _percent(value)


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _unit(test: Test) -> str:
    return "pairs" if test.kind is Kind.PAIRED else "answers"
