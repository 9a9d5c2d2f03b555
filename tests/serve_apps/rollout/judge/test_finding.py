from __future__ import annotations

import math
import random
import time

import numpy as np
import pytest

from serve_apps.rollout.judge.blocks import Block, beyond, exceedances
from serve_apps.rollout.judge.evidence import Increment, begin, update
from serve_apps.rollout.judge.finding import Verdict, finding, judge
from serve_apps.rollout.judge.shown import Sketches
from serve_apps.rollout.judge.sketch import EMPTY
from serve_apps.rollout.judge.terms import Test
from tests.serve_apps.rollout.judge.samples import sketch_of

DRAW = random.Random(11)
LATENCIES = [DRAW.lognormvariate(-1, 0.6) for _ in range(6000)]
BASELINE = sketch_of(LATENCIES)


def seen(test, *blocks, differences=()):
    evidence = begin(test)
    for number, block in enumerate(blocks):
        evidence = update(evidence, test, Increment(blocks=(block,)), step=0, now=10.0 * number)
    return update(evidence, test, Increment(differences=differences), step=0, now=10.0 * len(blocks))


def quantile_ratio(test, times, n=2000):
    candidate = sketch_of([times * value for value in LATENCIES[:n]])
    block = exceedances(
        candidate, BASELINE, BASELINE, quantile=test.quantile, limit=test.limit, direction=test.direction
    )
    return finding(seen(test, block), test, Sketches(candidate, BASELINE))


RATIO = Test(kind="ratio", limit=1.5)
TOLERANT = Test(kind="ratio", limit=1.5, tolerate=0.02)
RATE = Test(kind="rate", limit=0.02)
AT_LEAST = Test(kind="rate", limit=0.9, direction="lower")
DROP = Test(kind="paired", limit=0.02, direction="lower")
RISE = Test(kind="paired", limit=0.02)


@pytest.mark.parametrize(
    ("test", "block", "verdict"),
    [
        (RATIO, Block(2000, 80, 20_000, 200), "fail"),
        (RATIO, Block(9000, 90, 90_000, 900), "pass"),
        (RATIO, Block(300, 3, 3000, 30), "inconclusive"),
        (TOLERANT, Block(2000, 20, 20_000, 20), "pass"),
        (TOLERANT, Block(2000, 30, 20_000, 20), "inconclusive"),
        (TOLERANT, Block(2000, 80, 20_000, 200), "fail"),
        (RATE, Block(2000, 90), "fail"),
        (RATE, Block(2000, 20), "pass"),
        (RATE, Block(2000, 40), "inconclusive"),
        (AT_LEAST, Block(500, 400), "fail"),
        (AT_LEAST, Block(500, 480), "pass"),
    ],
)
def test_clear_cases_have_their_verdict_and_others_none(test, block, verdict):
    found = finding(seen(test, block), test)
    assert found.verdict.value == verdict
    assert found.samples == block.n_candidate
    assert (found.missing == 0) is (verdict != "inconclusive")
    if test.kind.value == "ratio":
        seen_ratio = block.bad_candidate / block.n_candidate / (block.bad_baseline / block.n_baseline)
        assert found.effect == pytest.approx(seen_ratio)
    assert found.low < found.effect < found.high


@pytest.mark.parametrize("test", [RATIO, TOLERANT, RATE, DROP], ids=str)
def test_no_data_are_no_verdict(test):
    found = finding(begin(test), test)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.reason == "nothing of the candidate has been counted yet"
    assert (found.effect, found.samples, found.missing) == (None, 0, test.min_samples)


def test_no_verdict_comes_before_the_samples_that_are_asked_for():
    found = finding(seen(RATIO, Block(99, 99, 1000, 0)), RATIO)
    assert (found.verdict, found.missing) == (Verdict.INCONCLUSIVE, 1)
    assert found.reason == "99 of the 100 answers that it asks for"
    assert found.log_e_worse > 20
    assert judge(seen(RATIO, Block(100, 100, 1000, 0)), RATIO) is Verdict.FAIL


def test_a_candidate_without_a_baseline_is_not_compared():
    found = finding(seen(RATIO, Block(500, 400)), RATIO)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.missing is None
    assert "nothing of the baseline" in found.reason


def test_what_is_tolerated_never_fails_and_what_is_not_needs_the_baseline():
    few = Test(kind="ratio", limit=1.5, tolerate=0.05)
    worse_but_tolerated = seen(few, *[Block(1000, 30, 100_000, 100)] * 20)
    assert judge(worse_but_tolerated, few) is Verdict.PASS
    bad_as_the_baseline = seen(few, *[Block(1000, 80, 100_000, 8000)] * 20)
    assert judge(bad_as_the_baseline, few) is Verdict.PASS


@pytest.mark.parametrize(
    ("quantile", "limit", "direction", "times", "verdict"),
    [
        (0.95, 1.5, "higher", 2.5, "fail"),
        (0.95, 1.5, "higher", 1.0, "pass"),
        (0.5, 0.8, "lower", 0.5, "fail"),
        (0.5, 0.8, "lower", 1.0, "pass"),
        (0.99, 1.5, "higher", 1.48, "inconclusive"),
    ],
)
def test_quantiles_are_compared_and_shown_as_ratios(quantile, limit, direction, times, verdict):
    test = Test(kind="quantile_ratio", quantile=quantile, limit=limit, direction=direction)
    found = quantile_ratio(test, times)
    assert found.verdict.value == verdict
    assert found.effect == pytest.approx(times, rel=0.1)
    assert found.low < times < found.high
    assert f"limit {limit:g}" in found.reason


@pytest.mark.parametrize(("limit", "verdict"), [(0.7, "fail"), (1.5, "pass")])
def test_a_quantile_has_a_limit_of_its_own(limit, verdict):
    test = Test(kind="quantile_limit", quantile=0.95, limit=limit)
    found = finding(seen(test, beyond(BASELINE, limit=limit)), test, Sketches(BASELINE, EMPTY))
    assert found.verdict.value == verdict
    assert found.effect == pytest.approx(sorted(LATENCIES)[5699], rel=0.011)
    assert found.low < found.effect < found.high


def test_without_sketches_the_shares_beyond_are_told():
    test = Test(kind="quantile_ratio", quantile=0.95, limit=1.5)
    found = finding(seen(test, Block(1000, 150, 10_000, 500)), test)
    assert found.effect is None
    assert found.reason == "15% beyond the limit of p95, 5% of the baseline beyond p95, limit 1.5"


@pytest.mark.parametrize(
    ("test", "worse", "better", "verdict"),
    [
        (DROP, 240, 40, "fail"),
        (DROP, 60, 60, "pass"),
        (RISE, 40, 240, "fail"),
        (RISE, 240, 40, "pass"),
    ],
)
def test_pairs_are_judged_in_the_direction_that_is_worse(test, worse, better, verdict):
    pairs = ((-1.0, worse), (0.0, 2000 - worse - better), (1.0, better))
    found = finding(seen(test, differences=pairs), test)
    assert found.verdict.value == verdict
    sign = -1 if test is DROP else 1
    assert found.effect == pytest.approx(sign * (better - worse) / 2000)
    assert found.low < found.effect < found.high
    assert found.samples == 2000


def test_a_plain_threshold_waits_for_its_duration():
    test = Test(kind="threshold", limit=0.01, duration_s=60)
    block = Block(100, 3)
    assert judge(seen(test, *[block] * 5), test) is Verdict.INCONCLUSIVE
    found = finding(seen(test, *[block] * 10), test)
    assert found.verdict is Verdict.FAIL
    assert found.reason == "3%, limit 1%"
    assert judge(seen(test, *[Block(100, 0)] * 10), test) is Verdict.PASS


def test_reasons_name_both_numbers():
    found = finding(seen(RATIO, Block(2000, 62, 20_000, 200)), RATIO)
    assert found.reason.startswith("3.1% against 1%: 3.1 times (1.")
    assert found.reason.endswith("), limit 1.5")
    undecided = finding(seen(TOLERANT, Block(300, 3, 3000, 30)), TOLERANT)
    assert undecided.reason.endswith("limit 1.5, 2% tolerated, not decided after 300 answers")
    pairs = ((-1.0, 240), (0.0, 1720), (1.0, 40))
    drop = finding(seen(DROP, differences=pairs), DROP)
    assert drop.reason.startswith("10.0 points (7.")
    assert drop.reason.endswith("), limit 2.0 points")


def test_values_below_zero_are_told_with_their_sign():
    test = Test(kind="quantile_limit", quantile=0.95, limit=0.7, below_zero=True)
    found = finding(seen(test, beyond(BASELINE, limit=0.7)), test, Sketches(BASELINE, EMPTY))
    assert found.reason == f"-{found.effect:.3g} (-{found.high:.3g} to -{found.low:.3g}), limit -0.7"


@pytest.mark.parametrize(
    ("test", "shares"),
    [
        (RATIO, (0.03, 0.01)),
        (RATIO, (0.01, 0.01)),
        (TOLERANT, (0.001, 0.01)),
        (TOLERANT, (0.06, 0.01)),
        (RATE, (0.05, 0)),
        (RATE, (0.01, 0)),
    ],
)
def test_what_is_missing_is_what_it_takes_if_things_go_on(test, shares):
    def look(n):
        return Block(n, round(shares[0] * n), 20 * n, round(shares[1] * 20 * n))

    early = seen(test, look(200))
    missing = finding(early, test).missing
    taken = next(
        n
        for n in range(100, 20_000, 100)
        if judge(update(early, test, Increment(blocks=(look(n),)), step=0, now=0.0), test)
        is not Verdict.INCONCLUSIVE
    )
    assert missing == pytest.approx(taken, rel=0.2, abs=100)


def test_missing_pairs_are_estimated_too():
    pairs = ((-1.0, 20), (0.0, 175), (1.0, 5))
    early = seen(DROP, differences=pairs)
    missing = finding(early, DROP).missing
    taken = next(n for n in range(1, 60) if judge(seen(DROP, differences=pairs * n), DROP) is Verdict.FAIL)
    assert missing == pytest.approx(200 * (taken - 1), rel=0.3)


def alarms(test, draw, candidate, baseline, runs, looks):
    """How often the gate ever fails, over two steps."""
    failed = 0
    for _ in range(runs):
        evidence = begin(test)
        for number in range(looks):
            p = baseline * (1 + math.sin(number / 5) * 0.8)
            n, m = int(draw.integers(5, 40)), int(draw.integers(50, 400))
            q = min(candidate / baseline * p, 1)
            block = Block(n, int(draw.binomial(n, q)), m, int(draw.binomial(m, p)))
            evidence = update(
                evidence, test, Increment(blocks=(block,)), step=int(number > looks / 2), now=0.0
            )
            if judge(evidence, test) is Verdict.FAIL:
                failed += 1
                break
    return failed / runs


@pytest.mark.parametrize("tolerate", [None, 0.01])
def test_a_gate_at_its_limit_fails_no_more_often_than_alpha(tolerate):
    alpha, runs = 0.1, 200
    test = Test(kind="ratio", limit=1.5, tolerate=tolerate, alpha=alpha, min_samples=1)
    found = alarms(test, np.random.default_rng(2), 0.06, 0.04, runs, 60)
    assert found <= alpha + 2 * math.sqrt(alpha * (1 - alpha) / runs)


def quickest(step):
    """Seconds of the quickest of some calls, as other work on the machine slows the rest."""
    taken = []
    for _ in range(30):
        began = time.process_time()
        step()
        taken.append(time.process_time() - began)
    return min(taken)


def test_a_step_of_a_gate_takes_less_than_a_millisecond():
    test = Test(kind="quantile_ratio", quantile=0.99, limit=1.5)
    candidate, before = sketch_of(LATENCIES[:2000]), begin(test)

    def step():
        block = exceedances(candidate, BASELINE, BASELINE, quantile=0.99, limit=1.5)
        after = update(before, test, Increment(blocks=(block,)), step=0, now=0.0)
        finding(after, test, Sketches(candidate, BASELINE))

    assert quickest(step) < 1e-3


def test_a_step_with_scored_pairs_takes_less_than_a_millisecond():
    scores = tuple((DRAW.uniform(-1, 1), 1) for _ in range(60))
    before = seen(DROP, differences=scores)

    def step():
        finding(update(before, DROP, Increment(differences=scores[:10]), step=0, now=0.0), DROP)

    assert quickest(step) < 1e-3
