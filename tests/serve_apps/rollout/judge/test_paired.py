from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import IntegrityError
from serve_apps.rollout.judge import bootstrap, paired

MARGINS = st.floats(0, 0.5)
DIFFERENCES = st.lists(
    st.tuples(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), st.integers(0, 50)), max_size=6
)


@st.composite
def three_points(draw):
    """Chances of -1, 0 and +1."""
    worse = draw(st.floats(0, 1))
    better = draw(st.floats(0, 1)) * (1 - worse)
    return ((1.0, worse), (-1.0, better), (0.0, 1 - worse - better))


@given(three_points(), MARGINS, st.booleans())
def test_bets_gain_in_the_mean_just_when_the_difference_is_on_their_side(points, margin, above):
    mean = sum(difference * chance for difference, chance in points)
    gains = [0.0] * len(paired.BETS)
    for difference, chance in points:
        factors = paired.log_factors([(difference, 1)], margin, above=above)
        gains = [gain + chance * math.exp(factor) for gain, factor in zip(gains, factors, strict=True)]
    is_on_their_side = mean > margin if above else mean < margin
    if abs(mean - margin) > 1e-9:
        assert all((gain > 1) == is_on_their_side for gain in gains)
    else:
        assert gains == pytest.approx([1.0] * len(gains))


@given(DIFFERENCES, st.randoms(), MARGINS)
def test_pairs_count_in_any_order(found, order, margin):
    shuffled = order.sample(found, len(found))
    assert paired.log_factors(shuffled, margin, above=True) == pytest.approx(
        paired.log_factors(found, margin, above=True), abs=1e-9
    )


def test_even_the_worst_pairs_do_not_end_a_bet():
    for above, difference in ((True, -1.0), (False, 1.0)):
        factors = paired.log_factors([(difference, 10**6)], 0.3, above=above)
        assert all(-math.inf < factor < 0 for factor in factors)


@pytest.mark.parametrize("pair", [(1.1, 1), (-2.0, 1), (math.nan, 1), (0.5, -1)])
def test_what_is_no_difference_is_told(pair):
    with pytest.raises(IntegrityError, match="difference"):
        paired.log_factors([pair], 0.1, above=True)


def test_differences_of_scores_are_counted():
    assert paired.differences([1, 0, 0.5, 1], [0, 1, 0.5, 0]) == ((-1, 1), (0, 1), (1, 2))
    with pytest.raises(IntegrityError, match="not pairs"):
        paired.differences([1.0], [1.0, 0.0])


def test_differences_of_counts():
    assert paired.from_counts(10, 3, 0) == ((0.0, 7), (1.0, 3))
    assert paired.from_counts(10, 3, 2) == ((-1.0, 2), (0.0, 5), (1.0, 3))
    with pytest.raises(IntegrityError, match="of 3 pairs"):
        paired.from_counts(3, 2, 2)


@given(st.floats(0, 0.5), st.floats(0, 0.5), MARGINS)
def test_drifts_are_the_mean_of_a_pair(worse, better, margin):
    points = ((1.0, worse), (-1.0, better), (0.0, 1 - worse - better))
    for above in (True, False):
        expected = [0.0] * len(paired.BETS)
        for difference, chance in points:
            factors = paired.log_factors([(difference, 1)], margin, above=above)
            expected = [mean + chance * factor for mean, factor in zip(expected, factors, strict=True)]
        assert paired.drifts(worse, better, margin, above=above) == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_exact_binomial_tail(one, other):
    n, fewer = one + other, min(one, other)
    exact = min(1.0, 2 * sum(math.comb(n, hits) for hits in range(fewer + 1)) / 2**n)
    assert paired.mcnemar(one, other) == pytest.approx(exact)
    assert paired.mcnemar(one, other) == paired.mcnemar(other, one)


def test_mcnemar_of_many_pairs_does_not_overflow():
    assert paired.mcnemar(10**8, 10**8) == 1.0
    assert 0 <= paired.mcnemar(10**8, 10**7) < 1e-300
    with pytest.raises(IntegrityError, match="from 0"):
        paired.mcnemar(-1, 3)


def test_the_bootstraps_interval_is_that_of_the_normal_law_for_many_pairs_and_repeats_with_its_seed():
    found = ((-1.0, 400), (0.0, 4000), (1.0, 600))
    low, high = bootstrap.interval(found, error=0.05, seed=4)
    half = 1.96 * math.sqrt((0.2 - 0.04**2) / 5000)
    assert (low, high) == pytest.approx((0.04 - half, 0.04 + half), abs=0.15 * half)
    assert bootstrap.interval(found, error=0.05, seed=4) == (low, high)
    assert bootstrap.interval(found, error=0.05, seed=5) != (low, high)


@pytest.mark.parametrize("found", [(), ((0.5, 0),)])
def test_without_pairs_there_is_nothing_to_resample(found):
    with pytest.raises(IntegrityError, match="no pairs"):
        bootstrap.interval(found, error=0.05, seed=1)
