from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_apps.rollout.judge import wealth
from serve_apps.rollout.judge.wealth import Wealth

SHARES = (0.5, 0.3, 0.2)
FACTORS = st.lists(st.tuples(*[st.floats(-50, 50)] * 3), max_size=8)


def grown(start, rows):
    for row in rows:
        start = wealth.grow(start, row)
    return start


@pytest.mark.parametrize("start", [wealth.staked(SHARES), wealth.reserved(SHARES)])
def test_the_stake_is_one(start):
    assert wealth.log_value(start) == pytest.approx(0.0, abs=1e-12)


@given(FACTORS)
def test_it_is_the_sum_of_what_the_bets_made_of_their_shares(rows):
    totals = [sum(row[index] for row in rows) for index in range(3)]
    expected = sum(share * math.exp(total) for share, total in zip(SHARES, totals, strict=True))
    assert wealth.log_value(grown(wealth.staked(SHARES), rows)) == pytest.approx(
        math.log(expected), rel=1e-9, abs=1e-9
    )


@given(FACTORS, st.randoms())
def test_the_order_of_blocks_is_the_same_to_it(rows, order):
    shuffled = order.sample(rows, len(rows))
    start = wealth.reserved(SHARES)
    assert wealth.log_value(grown(start, shuffled)) == pytest.approx(
        wealth.log_value(grown(start, rows)), abs=1e-9
    )


@given(FACTORS, st.integers(1, 20))
def test_a_restart_neither_adds_nor_takes(rows, times):
    before = after = grown(wealth.reserved(SHARES), rows)
    for _ in range(times):
        after = wealth.restart(after, SHARES)
    assert wealth.log_value(after) == pytest.approx(wealth.log_value(before), abs=1e-9)
    assert 0 < after.kept < before.kept


@given(FACTORS, st.floats(0.1, 1), st.integers(0, 3))
def test_shrunk_no_bet_has_more_and_only_gains_are_less(rows, times, restarts):
    before = grown(wealth.reserved(SHARES), rows)
    for _ in range(restarts):
        before = wealth.restart(before, SHARES)
    after = wealth.shrink(before, SHARES, times)
    for share, old, new in zip(SHARES, before.logs, after.logs, strict=True):
        stake = math.log(share * (1 - before.kept))
        assert new - stake == pytest.approx(times * (old - stake) if old > stake else old - stake)
    assert after.kept == before.kept


def test_after_a_restart_early_losses_are_no_burden():
    lost = wealth.grow(wealth.reserved(SHARES), [-1000.0] * 3)
    won = wealth.grow(wealth.restart(lost, SHARES), [10.0] * 3)
    assert wealth.log_value(won) > 10 + math.log(0.1)
    assert wealth.log_value(wealth.grow(lost, [10.0] * 3)) < 0


@given(FACTORS)
def test_without_a_reserve_it_may_be_lost_and_with_one_never_all(rows):
    lost = grown(wealth.reserved(SHARES), [*rows, (-1e6, -1e6, -1e6)])
    assert wealth.log_value(lost) == pytest.approx(math.log(0.25))
    assert wealth.log_value(grown(wealth.staked(SHARES), [(-1e9, -1e9, -1e9)])) < -1e8


def test_nothing_overflows():
    for size in (1e12, -1e12):
        assert math.isfinite(wealth.log_value(wealth.grow(wealth.reserved(SHARES), [size] * 3)))


@given(st.tuples(*[st.floats(-2, 2)] * 3), st.floats(0.1, 10), st.integers(0, 10**6))
def test_answers_until_is_where_the_mean_way_crosses(drifts, target, seed):
    draw = random.Random(seed)
    start = wealth.grow(wealth.reserved(SHARES), [draw.uniform(-5, 0) for _ in SHARES])
    answers = wealth.answers_until(start, drifts, target)
    if max(drifts) <= 0:
        assert answers is None
        return
    if answers is None:
        assert max(drifts) < 1e-12
        return

    def after(number):
        return wealth.log_value(wealth.grow(start, [number * drift for drift in drifts]))

    assert after(answers) >= target - 1e-6
    assert after(0.999 * answers - 1e-6) < target


def test_nothing_is_missing_where_the_target_is_reached():
    assert wealth.answers_until(Wealth(logs=(5.0,)), [-1.0], 4.0) == 0.0


def test_it_comes_back_from_json():
    start = wealth.grow(wealth.reserved(SHARES), [-0.1, 1 / 3, 1e9])
    assert Wealth.model_validate_json(start.model_dump_json()) == start
