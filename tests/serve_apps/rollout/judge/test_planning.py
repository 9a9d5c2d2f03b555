from __future__ import annotations

import random
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ConfigError
from serve_apps.rollout.judge.blocks import Block
from serve_apps.rollout.judge.evidence import Increment, begin, update
from serve_apps.rollout.judge.finding import Verdict, judge
from serve_apps.rollout.judge.planning import Baseline, Traffic, plan, smallest_worsening
from serve_apps.rollout.judge.terms import Test
from tests.serve_apps.rollout.judge.samples import sketch_of

DRAW = random.Random(3)
LATENCIES = sketch_of([DRAW.lognormvariate(-1, 0.6) for _ in range(20_000)])
ERRORS = Test(kind="ratio", limit=1.5, alpha=0.01)
STABLE = Baseline(rate=0.01, sketch=LATENCIES)
TRAFFIC = Traffic(per_second=100.0, weight=5.0)
TESTS = {
    "ratio": (ERRORS, 3.0),
    "tolerant": (Test(kind="ratio", limit=1.5, tolerate=0.02), 5.0),
    "rate": (Test(kind="rate", limit=0.02), 0.05),
    "rate, lower": (Test(kind="rate", limit=0.005, direction="lower"), 0.001),
    "p99": (Test(kind="quantile_ratio", limit=1.5, quantile=0.99), 2.5),
    "p50, lower": (Test(kind="quantile_ratio", limit=0.8, quantile=0.5, direction="lower"), 0.5),
    "p95 limit": (Test(kind="quantile_limit", limit=1.5, quantile=0.95), 3.0),
    "paired": (Test(kind="paired", limit=0.02, direction="lower"), 0.06),
}
ALL = pytest.mark.parametrize(("test", "worsening"), TESTS.values(), ids=TESTS)


@ALL
def test_both_verdicts_are_planned_and_seconds_follow_from_the_traffic(test, worsening):
    found = plan(test, STABLE, TRAFFIC, worsening=worsening, samples=5000)
    assert test.min_samples <= found.samples_to_fail < 10_000
    assert test.min_samples <= found.samples_to_pass < 10_000
    per_second = 100.0 if test.kind.value == "paired" else 5.0
    assert found.seconds_to_fail == pytest.approx(found.samples_to_fail / per_second)
    assert found.seconds_to_pass == pytest.approx(found.samples_to_pass / per_second)


def test_where_errors_come_in_fives_it_takes_five_times_the_answers():
    plain, fives = (
        plan(ERRORS, Baseline(rate=0.01, effect=effect), TRAFFIC, worsening=3, samples=5000)
        for effect in (1.0, 5.0)
    )
    assert fives.samples_to_fail == pytest.approx(5 * plain.samples_to_fail, abs=5)
    assert fives.samples_to_pass == pytest.approx(5 * plain.samples_to_pass, abs=5)
    assert fives.smallest > plain.smallest


@ALL
def test_the_smallest_worsening_fails_within_the_answers_and_a_bit_less_does_not(test, worsening):
    samples = 2000
    smallest = smallest_worsening(test, STABLE, TRAFFIC, samples)
    at_it = plan(test, STABLE, TRAFFIC, worsening=smallest, samples=samples)
    assert at_it.samples_to_fail <= samples
    less = smallest + 0.1 * (test.limit - smallest)
    before = plan(test, STABLE, TRAFFIC, worsening=less, samples=samples).samples_to_fail
    assert before is None or before > samples
    assert abs(smallest_worsening(test, STABLE, TRAFFIC, 20_000) - test.limit) < abs(smallest - test.limit)


@ALL
def test_what_is_within_the_limit_is_never_planned_to_fail(test, worsening):
    inside = test.limit * (0.9 if test.is_higher_worse or test.kind.value == "paired" else 1.1)
    assert plan(test, STABLE, TRAFFIC, worsening=inside, samples=100).samples_to_fail is None


@given(st.floats(1.7, 20), st.floats(1.01, 5))
def test_the_worse_the_sooner(worsening, more):
    def answers(times):
        return plan(ERRORS, STABLE, TRAFFIC, worsening=times, samples=10).samples_to_fail

    assert answers(worsening * more) <= answers(worsening)


@pytest.mark.parametrize("weight", [5.0, 50.0])
@pytest.mark.parametrize("times", [1.0, 3.0])
def test_simulated_rollouts_take_as_long_as_planned(weight, times):
    draw, traffic = np.random.default_rng(int(weight)), Traffic(per_second=100.0, weight=weight)
    planned = plan(ERRORS, Baseline(rate=0.05), traffic, worsening=3.0, samples=10)
    taken = []
    for _ in range(40):
        evidence, n = begin(ERRORS), 0
        while judge(evidence, ERRORS) is Verdict.INCONCLUSIVE:
            m = round(20 * (100 - weight) / weight)
            block = Block(20, int(draw.binomial(20, 0.05 * times)), m, int(draw.binomial(m, 0.05)))
            evidence, n = update(evidence, ERRORS, Increment(blocks=(block,)), step=0, now=0.0), n + 20
        taken.append(n)
    expected = planned.samples_to_pass if times == 1.0 else planned.samples_to_fail
    assert statistics.median(taken) == pytest.approx(expected, rel=0.4)


def test_nothing_is_compared_without_a_baseline_beside_it():
    alone = Traffic(per_second=100.0, weight=100.0)
    found = plan(ERRORS, STABLE, alone, worsening=3.0, samples=1000)
    assert (found.samples_to_fail, found.samples_to_pass, found.smallest) == (None, None, None)
    rate, worsening = TESTS["rate"]
    assert plan(rate, STABLE, alone, worsening=worsening, samples=1000).samples_to_fail is not None


def test_without_traffic_it_takes_for_ever():
    idle = Traffic(per_second=0.0, weight=5.0)
    found = plan(ERRORS, STABLE, idle, worsening=3.0, samples=1000)
    assert found.seconds_to_fail is None
    assert found.samples_to_fail is not None


def test_a_threshold_is_not_planned_for():
    test = Test(kind="threshold", limit=0.01, duration_s=300)
    found = plan(test, STABLE, TRAFFIC, worsening=0.05, samples=1000)
    assert set(found.model_dump().values()) == {None}


@pytest.mark.parametrize("name", ["ratio", "rate", "p99", "p95 limit"])
def test_what_the_baseline_lacks_is_told(name):
    test, worsening = TESTS[name]
    with pytest.raises(ConfigError, match=r"without the baseline's (rate|sketch)"):
        plan(test, Baseline(), TRAFFIC, worsening=worsening, samples=100)
