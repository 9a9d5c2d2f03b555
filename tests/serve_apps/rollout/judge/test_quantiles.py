from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_apps.rollout.judge.quantiles import band, band_width, interval, ratio_interval
from serve_apps.rollout.judge.sketch import EMPTY
from tests.serve_apps.rollout.judge.samples import sketch_of

SOME = st.lists(st.floats(0.001, 1000), min_size=1, max_size=200)
ERRORS = {"low_error": 0.05, "high_error": 0.05}


def error_by_theorem_2(a, c):
    """What a bound of a * sqrt((log log(e t) + c) / t) may be wrong by, as the paper's theorem 2 has it."""
    found = math.inf
    for part in range(1, 3000):
        eta = 1 + part * (2 * a * a - 1) / 3000
        gamma = math.sqrt(2 / eta) * (a - math.sqrt(2 * (eta - 1) / c))
        if gamma > 1:
            tail = 1 + 1 / ((gamma**2 - 1) * math.log(eta))
            found = min(found, 4 * math.exp(-(gamma**2) * c) * tail)
    return found


@pytest.mark.parametrize("error", [0.2, 0.05, 0.01, 1e-4])
def test_the_bands_constants_keep_its_error(error):
    assert error_by_theorem_2(0.85, 0.8 * math.log(1612 / error)) <= error


def test_the_band_narrows_as_the_root_of_n():
    assert band_width(10**4, 0.05) / band_width(10**6, 0.05) == pytest.approx(10, rel=0.1)
    assert band_width(1, 0.05) > 1


@given(SOME, st.floats(0.05, 0.95))
def test_intervals_hold_the_quantile_and_the_band_is_the_wider(values, quantile):
    sketch = sketch_of(values)
    seen = sketch.edges_at(sketch.rank_of(quantile))
    outer, inner = band(sketch, quantile, error=0.1), interval(sketch, quantile, **ERRORS)
    assert outer[0] <= inner[0] <= seen[1]
    assert inner[1] is None or seen[0] <= inner[1]
    assert outer[1] is None or (inner[1] is not None and inner[1] <= outer[1])


def test_without_values_nothing_is_known():
    assert band(EMPTY, 0.5, error=0.1) == (0.0, None)
    assert interval(EMPTY, 0.5, **ERRORS) == (0.0, None)
    assert ratio_interval(EMPTY, sketch_of([1.0]), 0.5, **ERRORS) == (0.0, None)
    assert ratio_interval(sketch_of([1.0]), EMPTY, 0.5, **ERRORS) == (0.0, None)


def test_the_tail_has_an_upper_end_only_when_it_has_been_seen():
    draw = random.Random(5)
    values = [draw.paretovariate(2.0) for _ in range(20_000)]
    assert interval(sketch_of(values[:200]), 0.99, **ERRORS)[1] is None
    low, high = interval(sketch_of(values), 0.99, **ERRORS)
    assert 8.5 < low < 10 < high < 12


def ever_misses(draw, quantile, truth):
    values = []
    for _ in range(12):
        values += [draw.lognormvariate(0, 1) for _ in range(40)]
        low, high = interval(sketch_of(values), quantile, low_error=0.1, high_error=0.1)
        if low > truth or (high is not None and high < truth):
            return True
    return False


@pytest.mark.parametrize(("quantile", "z"), [(0.5, 0.0), (0.9, 1.2815515655)])
def test_the_interval_holds_the_true_quantile_at_all_times_but_for_its_errors(quantile, z):
    draw, runs = random.Random(2), 200
    misses = sum(ever_misses(draw, quantile, math.exp(z)) for _ in range(runs)) / runs
    assert misses <= 0.2 + 2 * math.sqrt(0.2 * 0.8 / runs)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("times", [0.5, 1.0, 3.0])
def test_the_ratios_interval_moves_with_the_candidate(quantile, times):
    draw = random.Random(6)
    baseline = [draw.lognormvariate(0, 0.6) for _ in range(4000)]
    candidate = [times * draw.lognormvariate(0, 0.6) for _ in range(2000)]
    low, high = ratio_interval(sketch_of(candidate), sketch_of(baseline), quantile, **ERRORS)
    assert 0.75 * times < low < times < high < 1.35 * times


@given(SOME, SOME, st.floats(0.05, 0.95))
def test_the_ratios_interval_holds_what_was_seen(candidate, baseline, quantile):
    ours, theirs = sketch_of(candidate), sketch_of(baseline)
    seen = ours.quantile(quantile) / theirs.quantile(quantile)
    low, high = ratio_interval(ours, theirs, quantile, **ERRORS)
    assert low <= seen * 1.03
    assert high is None or seen <= high * 1.03
