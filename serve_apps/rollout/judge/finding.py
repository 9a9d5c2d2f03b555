"""From a gate's evidence to its finding: a verdict, the numbers behind it, and what is still missing."""

from __future__ import annotations

import math
from enum import StrEnum

from cluster.config import StrictModel
from serve_apps.rollout.judge import threshold, wealth
from serve_apps.rollout.judge.evidence import Evidence
from serve_apps.rollout.judge.missing import answers_missing
from serve_apps.rollout.judge.reasons import sentence
from serve_apps.rollout.judge.shown import Sketches, measure, samples
from serve_apps.rollout.judge.terms import Kind, Test


class Verdict(StrEnum):
    """Too little evidence is neither of the first two."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class Finding(StrictModel):
    """What a look found at one gate.

    `effect` is measured as `limit` is, at the present weight, and `low` to `high` its confidence sequence.
    The end that a failing gate needs has the error `alpha`, the other one `beta`; `high` is None where
    nothing bounds it. `samples`: answers of the candidate at this weight, or pairs; `missing`: how many more
    a verdict takes if they come as before, None where nobody can say. Of the e-values the logarithms.
    """

    verdict: Verdict
    reason: str
    effect: float | None
    low: float | None
    high: float | None
    limit: float
    samples: int
    missing: int | None
    log_e_worse: float
    log_e_fine: float


def finding(evidence: Evidence, test: Test, sketches: Sketches | None = None) -> Finding:
    """What `evidence` says. `sketches`: of this weight, candidate's and baseline's, to show quantiles by."""
    worse, fine = log_e_values(evidence)
    verdict = judge(evidence, test)
    shown = measure(evidence, test, sketches)
    seen = samples(evidence, test)
    missing = answers_missing(evidence, test) if verdict is Verdict.INCONCLUSIVE else 0
    return Finding(
        verdict=verdict,
        reason=sentence(test, verdict.value, evidence, shown),
        effect=shown.effect,
        low=shown.low,
        high=shown.high,
        limit=test.limit,
        samples=seen,
        missing=missing,
        log_e_worse=worse,
        log_e_fine=fine,
    )


def untested(verdict: Verdict, reason: str, *, effect: float | None = None, limit: float = 0.0) -> Finding:
    """What no test decides: a plain count, or the word of somebody outside."""
    return Finding(
        verdict=verdict,
        reason=reason,
        effect=effect,
        low=None,
        high=None,
        limit=limit,
        samples=0,
        missing=None,
        log_e_worse=0.0,
        log_e_fine=0.0,
    )


def judge(evidence: Evidence, test: Test) -> Verdict:
    """The verdict alone, which is quick."""
    if samples(evidence, test) < test.min_samples:
        return Verdict.INCONCLUSIVE
    if test.kind is Kind.THRESHOLD:
        return _by_threshold(evidence, test)
    worse, fine = log_e_values(evidence)
    if worse >= -math.log(test.alpha):
        return Verdict.FAIL
    return Verdict.PASS if fine >= -math.log(test.beta) else Verdict.INCONCLUSIVE


def log_e_values(evidence: Evidence) -> tuple[float, float]:
    """Against the candidate, and for it.

    To fail it must be worse than both the baseline's multiple and what is tolerated, so the lesser e-value
    counts; to pass either is enough.
    """
    worse, fine = wealth.log_value(evidence.worse), wealth.log_value(evidence.fine)
    if evidence.intolerable is not None and evidence.tolerable is not None:
        worse = min(worse, wealth.log_value(evidence.intolerable))
        fine = max(fine, wealth.log_value(evidence.tolerable))
    return worse, fine


def _by_threshold(evidence: Evidence, test: Test) -> Verdict:
    duration_s, higher = test.duration_s or 1.0, test.is_higher_worse
    if threshold.exceeded(evidence.window, test.limit, duration_s, higher=higher):
        return Verdict.FAIL
    if threshold.is_within(evidence.window, test.limit, duration_s, higher=higher):
        return Verdict.PASS
    return Verdict.INCONCLUSIVE
