from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_apps.rollout.judge import ratio, wealth
from serve_apps.rollout.judge.blocks import Block
from serve_apps.rollout.judge.ratio import ABOVE, BELOW
from tests.serve_apps.rollout.judge.samples import blocks, mean_of_factors

LIMITS = st.floats(0.5, 3)
RATES = st.floats(0.0, 1.0)
FEW = st.integers(1, 5)


def test_each_side_shares_one_stake():
    assert sum(ABOVE.values()) == pytest.approx(1)
    assert sum(BELOW.values()) == pytest.approx(1)
    assert min(ABOVE) > 1 > max(BELOW)


@given(FEW, FEW, RATES, RATES, LIMITS)
def test_bets_above_gain_nothing_in_the_mean_while_the_candidate_is_within_the_limit(n, m, p, part, limit):
    """Exact, over all counts; whatever the baseline's rate is."""
    candidate = min(part * limit * p, 1.0)
    means = mean_of_factors(lambda block: ratio.log_factors([block], limit, ABOVE), n, candidate, m, p)
    assert max(means) <= 1 + 1e-9


@given(FEW, FEW, RATES, RATES, LIMITS)
def test_bets_below_gain_nothing_in_the_mean_while_the_candidate_is_beyond_the_limit(n, m, q, part, limit):
    baseline = min(part * q / limit, 1.0)
    means = mean_of_factors(lambda block: ratio.log_factors([block], limit, BELOW), n, q, m, baseline)
    assert max(means) <= 1 + 1e-9


def test_they_do_gain_where_it_is_not():
    above = mean_of_factors(lambda block: ratio.log_factors([block], 1.5, ABOVE), 4, 0.4, 4, 0.1)
    below = mean_of_factors(lambda block: ratio.log_factors([block], 1.5, BELOW), 4, 0.1, 4, 0.4)
    assert max(above) > 1.1
    assert max(below) > 1.1


@given(blocks(), LIMITS)
def test_one_more_bad_answer_of_the_candidate_speaks_against_it(block, limit):
    if block.bad_candidate == block.n_candidate or not block.n_baseline:
        return
    worse = Block(block.n_candidate, block.bad_candidate + 1, block.n_baseline, block.bad_baseline)
    for bets, sign in ((ABOVE, 1), (BELOW, -1)):
        before = ratio.log_factors([block], limit, bets)
        after = ratio.log_factors([worse], limit, bets)
        assert all(sign * (a - b) >= -1e-9 for a, b in zip(after, before, strict=True))


@given(st.lists(blocks(), max_size=6), st.randoms())
def test_blocks_count_in_any_order_and_those_of_one_side_for_nothing(found, order):
    alone = [Block(n_candidate=9, bad_candidate=9), Block(n_baseline=9, bad_baseline=9), Block()]
    mixed = order.sample([*found, *alone], len(found) + 3)
    for bets in (ABOVE, BELOW):
        assert ratio.log_factors(mixed, 1.5, bets) == pytest.approx(
            ratio.log_factors(found, 1.5, bets), abs=1e-6
        )


def test_a_hundred_million_answers_are_finite():
    huge = Block(10**8, 10**6, 10**8, 10**8)
    for bets in (ABOVE, BELOW):
        assert all(math.isfinite(factor) for factor in ratio.log_factors([huge], 1.5, bets))
    low, high = ratio.interval(huge, low_error=0.05, high_error=0.05)
    assert 0.0099 < low < 0.01 < high < 0.0101


@given(RATES, st.floats(0.001, 1), st.floats(0.01, 2), LIMITS)
def test_drifts_are_the_mean_of_a_block_for_each_answer(candidate, baseline, each, limit):
    n = 10**6
    block = Block(n, round(candidate * n), round(n / each), round(baseline * round(n / each)))
    for bets in (ABOVE, BELOW):
        factors = ratio.log_factors([block], limit, bets)
        drifts = ratio.drifts(candidate, baseline, each, limit, bets)
        assert [factor / n for factor in factors] == pytest.approx(drifts, abs=1e-3)


def false_alarms(bets, limit, above, runs=400, looks=60, seed=1):
    """How often 1/alpha is ever reached at the very limit, with a rate that drifts and bursts."""
    draw, alarms = np.random.default_rng(seed), 0
    for _ in range(runs):
        state = wealth.staked(bets.values())
        for look in range(looks):
            p = 0.03 * (1 + math.sin(look / 7)) + (0.3 if draw.random() < 0.05 else 0.01)
            n, m = int(draw.integers(1, 40)), int(draw.integers(1, 200))
            bad = int(draw.binomial(n, min(limit * p, 1))), int(draw.binomial(m, p))
            state = wealth.grow(state, ratio.log_factors([Block(n, bad[0], m, bad[1])], limit, bets))
            if wealth.log_value(state) >= math.log(1 / above):
                alarms += 1
                break
    return alarms / runs


@pytest.mark.parametrize("bets", [ABOVE, BELOW], ids=["above", "below"])
def test_looking_all_the_time_raises_no_more_false_alarms_than_alpha(bets):
    alpha, spread = 0.1, math.sqrt(0.1 * 0.9 / 400)
    assert false_alarms(bets, 1.5, alpha) <= alpha + 2 * spread


@given(blocks(), st.floats(0.001, 0.3))
def test_the_interval_holds_the_ratio(block, error):
    low, high = ratio.interval(block, low_error=error, high_error=error)
    if block.bad_baseline and block.n_candidate:
        seen = block.bad_candidate / block.n_candidate * block.n_baseline / block.bad_baseline
        assert low <= seen * (1 + 1e-9)
        assert high is None or seen <= high * (1 + 1e-9)
    assert low >= 0


def test_nothing_bounds_a_ratio_without_bad_answers_of_the_baseline():
    low, high = ratio.interval(Block(1000, 10, 1000, 0), low_error=0.05, high_error=0.05)
    assert low > 1
    assert high is None
    assert ratio.interval(Block(10, 5), low_error=0.05, high_error=0.05) == (0.0, None)


def test_the_interval_is_right_at_all_times_but_for_its_errors():
    draw, misses, runs = np.random.default_rng(3), 0, 200
    for _ in range(runs):
        total = Block()
        for _ in range(40):
            n, m = 30, 90
            total = total.plus(Block(n, int(draw.binomial(n, 0.1)), m, int(draw.binomial(m, 0.05))))
            low, high = ratio.interval(total, low_error=0.05, high_error=0.05)
            if low > 2 or (high is not None and high < 2):
                misses += 1
                break
    assert misses / runs <= 0.1 + 2 * math.sqrt(0.1 * 0.9 / runs)
