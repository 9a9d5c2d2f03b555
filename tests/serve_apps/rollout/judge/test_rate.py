from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_apps.rollout.judge import rate
from serve_apps.rollout.judge.blocks import Block
from serve_apps.rollout.judge.ratio import ABOVE, BELOW
from tests.serve_apps.rollout.judge.samples import binomial, blocks

LIMITS = st.floats(0.001, 0.999)


def means(n, share, limit, bets):
    found = [0.0] * len(bets)
    for bad, chance in enumerate(binomial(n, share)):
        factors = rate.log_factors([Block(n, bad)], limit, bets)
        found = [mean + chance * math.exp(factor) for mean, factor in zip(found, factors, strict=True)]
    return found


@given(st.integers(1, 12), LIMITS, st.floats(0, 1))
def test_bets_gain_nothing_in_the_mean_on_the_good_side_of_the_limit(n, limit, part):
    assert max(means(n, part * limit, limit, ABOVE)) <= 1 + 1e-9
    assert max(means(n, limit + part * (1 - limit), limit, BELOW)) <= 1 + 1e-9


def test_at_the_limit_they_keep_what_they_have():
    assert means(9, 0.2, 0.2, ABOVE) == pytest.approx([1.0] * len(ABOVE))
    assert means(9, 0.2, 0.2, BELOW) == pytest.approx([1.0] * len(BELOW))


def test_they_gain_on_the_other_side():
    assert max(means(9, 0.5, 0.1, ABOVE)) > 10
    assert max(means(9, 0.05, 0.4, BELOW)) > 10


@given(st.lists(blocks(), max_size=6), LIMITS)
def test_the_baseline_and_the_cutting_into_blocks_do_not_matter(found, limit):
    total = Block()
    for block in found:
        total = total.plus(block)
    alone = Block(total.n_candidate, total.bad_candidate)
    assert rate.log_factors(found, limit, ABOVE) == pytest.approx(rate.log_factors([alone], limit, ABOVE))


def test_a_hundred_million_answers_are_finite():
    for bad in (0, 10**8):
        found = rate.log_factors([Block(10**8, bad)], 0.01, ABOVE)
        assert all(math.isfinite(factor) for factor in found)


@given(st.floats(0, 1), LIMITS)
def test_drifts_are_the_mean_of_an_answer(share, limit):
    ours = rate.drifts(share, limit, ABOVE)
    n = 10**6
    found = rate.log_factors([Block(n, round(share * n))], limit, ABOVE)
    assert [factor / n for factor in found] == pytest.approx(ours, abs=1e-4)


def test_the_interval_is_of_the_candidate_alone():
    low, high = rate.interval(Block(1000, 20, 10, 10), low_error=0.05, high_error=0.05)
    assert 0.007 < low < 0.02 < high < 0.042
