from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_apps.rollout.judge import paired, wealth
from serve_apps.rollout.judge.means import Mean, interval, update
from serve_apps.rollout.judge.paired import BETS

ERRORS = {"low_error": 0.05, "high_error": 0.05}
ON_GRID = st.lists(
    st.tuples(st.sampled_from([-1.0, -0.5, 0.0, 0.2, 1.0]), st.integers(1, 200)), min_size=1, max_size=6
)
ANYWHERE = st.lists(st.tuples(st.floats(-1, 1), st.integers(1, 200)), min_size=1, max_size=6)


def log_e(found, margin, above):
    stake = wealth.staked(BETS.values())
    return wealth.log_value(wealth.grow(stake, paired.log_factors(found, margin, above=above)))


@given(ON_GRID, st.floats(0.01, 0.5))
def test_its_ends_are_the_margins_that_the_verdict_refutes(found, error):
    low, high = interval(update(Mean(), found), low_error=error, high_error=error)
    bound, much = -math.log(error), 0.01
    for end, above, sign in ((low, True, 1), (high, False, -1)):
        if -1 < end < 1:
            assert log_e(found, end, above) >= bound - 1e-6
        if abs(end + sign * much) < 1:
            assert log_e(found, end + sign * much, above) < bound


@given(ANYWHERE)
def test_between_the_points_of_its_grid_it_keeps_the_mean_and_is_careful(found):
    mean = update(Mean(), found)
    n = sum(number for _, number in found)
    assert mean.n == n
    assert sum(weight for _, weight in mean.points) == pytest.approx(n)
    assert sum(at * weight for at, weight in mean.points) == pytest.approx(mean.total, abs=1e-6)
    low, high = interval(mean, **ERRORS)
    assert low <= mean.value + 1e-9
    assert mean.value <= high + 1e-9
    if low > -1:
        assert log_e(found, low, True) >= -math.log(0.05) - 1e-6
    if high < 1:
        assert log_e(found, high, False) >= -math.log(0.05) - 1e-6


@given(ANYWHERE, st.randoms())
def test_the_order_and_the_cutting_into_batches_do_not_matter(found, order):
    parts = Mean()
    for one in order.sample(found, len(found)):
        parts = update(parts, [one])
    whole = update(Mean(), found)
    assert parts.weights == pytest.approx(whole.weights, abs=1e-6)
    assert (parts.n, parts.total) == (whole.n, pytest.approx(whole.total, abs=1e-9))


def ever_misses(draw, worse, better):
    mean = Mean()
    for _ in range(15):
        pairs = [draw.random() for _ in range(40)]
        up, down = sum(pair < worse for pair in pairs), sum(pair > 1 - better for pair in pairs)
        mean = update(mean, [(1.0, up), (-1.0, down), (0.0, 40 - up - down)])
        low, high = interval(mean, low_error=0.1, high_error=0.1)
        if not low <= worse - better <= high:
            return True
    return False


def test_it_holds_the_mean_at_all_times_but_for_its_errors():
    draw, runs, error = random.Random(4), 200, 0.2
    misses = sum(ever_misses(draw, 0.2, 0.1) for _ in range(runs)) / runs
    assert misses <= error + 2 * math.sqrt(error * (1 - error) / runs)


def test_many_pairs_make_it_narrow():
    found = [(-1.0, 400), (0.0, 9000), (1.0, 600)]
    low, high = interval(update(Mean(), found), **ERRORS)
    deviation = math.sqrt((0.1 - 0.02**2) / 10_000)
    assert 0.02 - 4 * deviation < low < 0.02 - deviation
    assert 0.02 + deviation < high < 0.02 + 4 * deviation


def test_before_the_first_difference_it_is_anywhere():
    assert interval(Mean(), **ERRORS) == (-1.0, 1.0)
    assert update(Mean(), []) == Mean()


@given(ANYWHERE)
def test_it_comes_back_from_json(found):
    mean = update(Mean(), found)
    assert Mean.model_validate_json(mean.model_dump_json()) == mean
