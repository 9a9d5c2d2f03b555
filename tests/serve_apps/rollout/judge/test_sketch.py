from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import IntegrityError
from serve_apps.rollout.judge.sketch import EMPTY, Sketch, merged
from tests.serve_apps.rollout.judge.samples import sketch_of

VALUES = st.lists(st.just(0.0) | st.floats(1e-6, 1e6), max_size=60)
SOME = st.lists(st.just(0.0) | st.floats(1e-6, 1e6), min_size=1, max_size=60)


@given(VALUES, VALUES, VALUES)
def test_merging_is_counting_together_in_any_order(one, two, three):
    a, b, c = (sketch_of(values) for values in (one, two, three))
    assert a.merge(b).merge(c) == c.merge(a.merge(b)) == sketch_of(one + two + three)
    assert merged([a, b, c]) == a.merge(b.merge(c))
    assert a.merge(EMPTY) == a


@given(VALUES, VALUES)
def test_what_came_since_is_the_difference(before, since):
    earlier, later = sketch_of(before), sketch_of(before + since)
    assert later.minus(earlier) == sketch_of(since)
    assert later.minus(later) == EMPTY
    assert later.minus(earlier).total == len(since)


def test_a_sketch_that_shrank_is_no_continuation():
    with pytest.raises(IntegrityError, match="negative"):
        sketch_of([1.0]).minus(sketch_of([1.0, 2.0]))
    with pytest.raises(IntegrityError, match="negative"):
        sketch_of([1.0]).minus(sketch_of([0.0]))


@given(VALUES)
def test_it_comes_back_from_json(values):
    sketch = sketch_of(values)
    assert Sketch.from_json(sketch.to_json()) == sketch


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"zeros": 1},
        {"zeros": "many", "buckets": []},
        {"zeros": -1, "buckets": []},
        {"zeros": 0, "buckets": [[1, -2]]},
        {"zeros": 0, "buckets": [[1, 2], [1, 3]]},
        {"zeros": 0, "buckets": [[1]]},
        {"zeros": 0, "buckets": None},
    ],
)
def test_what_is_no_sketch_is_told(tree):
    with pytest.raises(IntegrityError, match="sketch"):
        Sketch.from_json(tree)


@given(SOME, st.floats(0.001, 0.999))
def test_a_quantile_is_within_one_percent_of_the_value_of_its_rank(values, quantile):
    sketch = sketch_of(values)
    exact = sorted(values)[sketch.rank_of(quantile) - 1]
    assert sketch.quantile(quantile) == pytest.approx(exact, rel=0.0100001)


@given(SOME)
def test_quantiles_grow_with_their_share(values):
    sketch = sketch_of(values)
    found = [sketch.quantile(part / 20) for part in range(1, 20)]
    assert found == sorted(found)


@given(SOME, st.data())
def test_edges_hold_the_value_of_a_rank(values, data):
    rank = data.draw(st.integers(1, len(values)))
    low, high = sketch_of(values).edges_at(rank)
    assert low * (1 - 1e-9) <= sorted(values)[rank - 1] <= high * (1 + 1e-9)


@given(VALUES, st.floats(1e-6, 1e6))
def test_counts_beyond_a_value_err_by_its_bucket_alone(values, at):
    sketch = sketch_of(values)
    assert sum(v > at * 1.021 for v in values) <= sketch.count_above(at) <= sum(v > at for v in values)
    assert sum(v < at / 1.021 for v in values) <= sketch.count_below(at) <= sum(v < at for v in values)


def test_counts_beyond_zero():
    sketch = sketch_of([0.0, 0.0, 3.0])
    assert (sketch.count_above(0.0), sketch.count_below(0.0)) == (1, 0)
    assert sketch.count_above(-1.0) == 3


def test_an_empty_sketch_has_no_quantile():
    with pytest.raises(IntegrityError, match="0 values"):
        EMPTY.quantile(0.5)
