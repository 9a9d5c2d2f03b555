"""Before a rollout: how long a gate takes to a verdict, and which worsening it can see at all.

On the way of the mean, with the bets that the judge itself makes: about half of the rollouts are quicker.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cluster.config import StrictModel
from cluster.errors import ConfigError
from serve_apps.rollout.judge.evidence import begin, tail
from serve_apps.rollout.judge.growth import Changes, Rates, answers_to_verdicts
from serve_apps.rollout.judge.sketch import Sketch
from serve_apps.rollout.judge.terms import QUANTILES, Kind, Test

_WORST_TIMES = 1e4


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests a second, and of these the candidate's, in percent."""

    per_second: float
    weight: float


@dataclass(frozen=True, slots=True)
class Baseline:
    """How the stable version does now.

    `rate`: its bad share, for `ratio` and `rate`; `sketch`: of its values, for quantiles; `changed`: in which
    share of pairs the score differs though neither is better, for `paired`. `effect`: so many of its bad
    answers come from one caller and count as one, for `ratio` and `rate`.
    """

    rate: float | None = None
    sketch: Sketch | None = None
    changed: float = 0.1
    effect: float = 1.0


class Plan(StrictModel):
    """Answers of the candidate (pairs, for `paired`) and seconds to a verdict; None for never.

    `smallest`: the least worsening that fails within the answers asked about, measured as `worsening` is.
    """

    samples_to_fail: int | None
    seconds_to_fail: float | None
    samples_to_pass: int | None
    seconds_to_pass: float | None
    smallest: float | None


def plan(test: Test, baseline: Baseline, traffic: Traffic, *, worsening: float, samples: int) -> Plan:
    """Of a candidate that is worse by `worsening`, and of one that equals the baseline.

    `worsening` is measured as the gate's limit is: times the baseline's, a share, a value, a mean difference.
    For `paired` the traffic is in pairs. A threshold is never planned for: it takes its `duration_s`. Raises
    ConfigError where the baseline lacks what the gate compares with.
    """
    to_fail = _samples(test, baseline, traffic, worsening, to_fail=True)
    to_pass = _samples(test, baseline, traffic, _equal(test, baseline), to_fail=False)
    return Plan(
        samples_to_fail=to_fail,
        seconds_to_fail=_seconds(test, traffic, to_fail),
        samples_to_pass=to_pass,
        seconds_to_pass=_seconds(test, traffic, to_pass),
        smallest=smallest_worsening(test, baseline, traffic, samples),
    )


def smallest_worsening(test: Test, baseline: Baseline, traffic: Traffic, samples: int) -> float | None:
    """The least one that fails within so many answers of the candidate; None where none does."""

    def is_seen(depth: float) -> bool:
        needed = _samples(test, baseline, traffic, _at_depth(test, depth), to_fail=True)
        return needed is not None and needed <= samples

    low, high = 0.0, 1.0
    if not is_seen(high):
        return None
    for _ in range(30):
        half = (low + high) / 2
        low, high = (low, half) if is_seen(half) else (half, high)
    return _at_depth(test, high)


def _at_depth(test: Test, depth: float) -> float:
    """From the limit, at 0, to the worst there is, at 1."""
    if test.kind in {Kind.PAIRED, Kind.RATE, Kind.THRESHOLD}:
        worst = 1.0 if test.is_higher_worse or test.kind is Kind.PAIRED else 0.0
        return test.limit + depth * (worst - test.limit)
    times = float(_WORST_TIMES**depth)
    return test.limit * times if test.is_higher_worse else test.limit / times


def _samples(test: Test, baseline: Baseline, traffic: Traffic, effect: float, *, to_fail: bool) -> int | None:
    if test.kind is Kind.THRESHOLD:
        return None
    fail, passed = answers_to_verdicts(begin(test), test, _outlook(test, baseline, traffic, effect))
    answers = fail if to_fail else passed
    return None if answers is None else max(math.ceil(answers * baseline.effect), test.min_samples)


def _seconds(test: Test, traffic: Traffic, samples: int | None) -> float | None:
    per_second = traffic.per_second * (1.0 if test.kind is Kind.PAIRED else traffic.weight / 100)
    return None if samples is None or per_second <= 0 else samples / per_second


def _outlook(test: Test, baseline: Baseline, traffic: Traffic, effect: float) -> Rates | Changes:
    if test.kind is Kind.PAIRED:
        either = max(baseline.changed, abs(effect))
        return Changes((either + effect) / 2, (either - effect) / 2)
    per_baseline = traffic.weight / (100 - traffic.weight) if 0 < traffic.weight < 100 else 0.0
    if test.kind in QUANTILES:
        return Rates(_beyond(test, _sketch(baseline), effect), tail(test), per_baseline)
    if test.kind is Kind.RATE:
        return Rates(effect)
    rate = _rate(baseline)
    return Rates(min(effect * rate, 1.0), rate, per_baseline)


def _equal(test: Test, baseline: Baseline) -> float:
    match test.kind:
        case Kind.RATE:
            return _rate(baseline)
        case Kind.QUANTILE_LIMIT:
            return _sketch(baseline).quantile(test.quantile or 0.5)
        case Kind.PAIRED:
            return 0.0
    return 1.0


def _beyond(test: Test, sketch: Sketch, effect: float) -> float:
    """The candidate's share beyond the limit, with the baseline's values stretched to `effect`."""
    at = sketch.quantile(test.quantile or 0.5)
    edge = test.limit * at / effect
    count = sketch.count_above if test.is_higher_worse else sketch.count_below
    return count(edge) / sketch.total


def _rate(baseline: Baseline) -> float:
    if baseline.rate is None:
        raise _unknown("rate", "the bad share of what stable answers now")
    return baseline.rate


def _sketch(baseline: Baseline) -> Sketch:
    if baseline.sketch is None or not baseline.sketch.total:
        raise _unknown("sketch", "values of what stable answers now")
    return baseline.sketch


def _unknown(what: str, needed: str) -> ConfigError:
    return ConfigError(
        f"Nothing can be planned without the baseline's {what}.",
        code="judge.no_baseline",
        hint=f"It takes {needed}: send it some traffic first.",
    )
