from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import IntegrityError
from serve_apps.rollout.judge.blocks import MIN_TAIL, Block, beyond, exceedances
from serve_apps.rollout.judge.sketch import EMPTY
from serve_apps.rollout.judge.terms import Direction
from tests.serve_apps.rollout.judge.samples import blocks, sketch_of

DRAW = random.Random(7)
LATENCIES = [DRAW.lognormvariate(-1, 0.6) for _ in range(4000)]
PAST = sketch_of(LATENCIES[:2000])
NOW = LATENCIES[2000:]


@pytest.mark.parametrize("counts", [(1, 2), (1, -1), (-1, 0), (1, 0, 1, 2), (1, 0, -1, -1)])
def test_counts_that_cannot_be_are_told(counts):
    with pytest.raises(IntegrityError, match="cannot be"):
        Block(*counts)


@given(blocks(), blocks())
def test_blocks_add_up_in_any_order(one, other):
    assert one.plus(other) == other.plus(one)
    assert one.plus(Block()) == one
    assert one.plus(other).n_candidate == one.n_candidate + other.n_candidate


@pytest.mark.parametrize("quantile", [0.5, 0.95, 0.99])
def test_bad_is_what_lies_beyond_the_quantile_that_the_baseline_had(quantile):
    block = exceedances(sketch_of(NOW), sketch_of(NOW), PAST, quantile=quantile, limit=1.0)
    at = PAST.quantile(quantile)
    assert block.bad_candidate == block.bad_baseline
    assert block.bad_baseline == pytest.approx(sum(value > at for value in NOW), abs=45)


def test_the_candidate_is_measured_by_a_multiple_of_it():
    limit, slow = 1.5, [value * 1.5 for value in NOW]
    block = exceedances(sketch_of(slow), sketch_of(NOW), PAST, quantile=0.9, limit=limit)
    assert block.bad_candidate == pytest.approx(block.bad_baseline, rel=0.1)
    lenient = exceedances(sketch_of(slow), sketch_of(NOW), PAST, quantile=0.9, limit=2.0)
    assert lenient.bad_candidate < block.bad_candidate
    assert lenient.bad_baseline == block.bad_baseline


def test_where_lower_is_worse_bad_lies_below():
    slow = [value * 0.5 for value in NOW]
    block = exceedances(
        sketch_of(slow), sketch_of(NOW), PAST, quantile=0.5, limit=0.8, direction=Direction.LOWER
    )
    at = PAST.quantile(0.5)
    assert block.bad_baseline == pytest.approx(sum(value < at for value in NOW), abs=40)
    assert block.bad_candidate == pytest.approx(sum(value < 0.8 * at for value in slow), abs=40)
    assert block.bad_candidate > block.bad_baseline


@pytest.mark.parametrize(("quantile", "needed"), [(0.5, 20), (0.99, 1000), (0.01, 1000)])
def test_a_past_that_is_thin_gives_no_block(quantile, needed):
    assert needed * min(quantile, 1 - quantile) == pytest.approx(MIN_TAIL)
    few, enough = sketch_of(LATENCIES[: needed - 1]), sketch_of(LATENCIES[: needed + 1])
    now = sketch_of(NOW)
    assert exceedances(now, now, few, quantile=quantile, limit=1.5) is None
    assert exceedances(now, now, enough, quantile=quantile, limit=1.5) is not None


def test_a_baseline_of_zeros_has_no_multiple():
    assert exceedances(sketch_of(NOW), EMPTY, sketch_of([0.0] * 100), quantile=0.5, limit=1.5) is None


@given(st.lists(st.floats(1e-3, 1e3), max_size=40), st.floats(1e-2, 1e2))
def test_an_absolute_limit_counts_the_candidate_alone(values, limit):
    above = beyond(sketch_of(values), limit=limit)
    below = beyond(sketch_of(values), limit=limit, direction=Direction.LOWER)
    assert above.n_candidate == below.n_candidate == len(values)
    assert above.bad_candidate <= sum(value > limit for value in values)
    assert below.bad_candidate <= sum(value < limit for value in values)
    assert above.n_baseline == above.bad_baseline == 0
