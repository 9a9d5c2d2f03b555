"""The algebra of the design effect; that it keeps `alpha` is measured by benchmarks/judge.py."""

from __future__ import annotations

import math
import random
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_apps.rollout.judge import clusters
from serve_apps.rollout.judge.blocks import Block
from serve_apps.rollout.judge.clusters import STRETCH, Clusters, Side
from serve_apps.rollout.judge.evidence import Evidence, Increment, begin, update
from serve_apps.rollout.judge.finding import finding, log_e_values
from serve_apps.rollout.judge.terms import Test

RATIO = Test(kind="ratio", limit=1.5, tolerate=0.01)
CALLERS = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 30)), min_size=1, max_size=30)


def pairs(numbers) -> int:
    return sum(number * (number - 1) for number in numbers)


def of_callers(asked) -> tuple[int, int, int, int]:
    """Of (requests, bad ones) by caller: the four numbers of a side."""
    bad = [min(bad, n) for n, bad in asked]
    return sum(n for n, _ in asked), sum(bad), pairs(n for n, _ in asked), pairs(bad)


def in_clusters_of(size: int, number: int, n: int) -> tuple[int, int, int, int]:
    """So many clusters of bad requests among n, whose other callers ask once."""
    made = number * size * (size - 1)
    return n, number * size, made, made


def block(ours, theirs=(0, 0, 0, 0)) -> Block:
    return Block(*ours[:2], *theirs[:2], *ours[2:], *theirs[2:])


def effect(*sides) -> float:
    return clusters.update(Clusters(), [block(side) for side in sides]).design_effect


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_without_pairs_each_stands_for_itself(n, bad):
    assert effect((max(n, bad), bad, 0, 0)) == 1


@given(st.integers(1, 20), st.integers(1, 50))
def test_all_in_clusters_count_about_as_so_many(size, number):
    found = effect(in_clusters_of(size, number, 1000 * number))
    assert found == pytest.approx(size, rel=0.03)


@given(st.integers(1, 60))
def test_where_all_are_bad_callers_who_ask_much_are_no_cluster(n):
    assert effect(of_callers([(n, n)] * 4)) == pytest.approx(1)


def test_errors_by_chance_of_callers_who_ask_much_are_no_cluster():
    draw = random.Random(1)
    sides = [
        of_callers([(50, sum(draw.random() < rate for _ in range(50))) for _ in range(40)])
        for rate in [0.01, 0.2] * 50
    ]
    assert effect(*sides) < 1.1


@given(CALLERS, st.data())
def test_it_is_at_least_1_and_rises_with_the_pairs_that_are_bad(asked, data):
    n, bad, both, bad_pairs = of_callers(asked)
    fewer = data.draw(st.integers(0, bad_pairs))
    assert 1 <= effect((n, bad, both, fewer)) <= effect((n, bad, both, bad_pairs))
    assert effect((n, bad, both, bad_pairs)) <= 1 + bad_pairs / max(bad, 1) + 1e-9


@given(st.lists(CALLERS, min_size=1, max_size=6), st.randoms())
def test_gateways_and_blocks_add_up_in_any_order(gateways, order):
    """Within a stretch, to the last bit; beyond it, what chance makes is told of other stretches."""
    sides = [of_callers(asked) for asked in gateways]
    total = tuple(map(sum, zip(*sides, strict=True)))
    one, other = (
        clusters.update(Clusters(), map(block, each)).candidate
        for each in (sides, order.sample(sides, len(sides)))
    )
    assert one.bad == other.bad == total[1]
    if total[0] < STRETCH:
        assert one == other == clusters.grow(Side(), *total)


def test_the_larger_of_the_two_sides_counts():
    fives = in_clusters_of(5, 10, 10_000)
    for found in (block(fives, (1000, 9, 0, 0)), block((1000, 9, 0, 0), fives)):
        assert clusters.update(Clusters(), [found]).design_effect == pytest.approx(5, rel=0.01)


def test_the_first_burst_counts_as_one_at_once():
    burst = Increment(blocks=(block(in_clusters_of(5, 1, 200), (20_000, 0, 0, 0)),))
    alone = Increment(blocks=(Block(40, 1, 4000, 0),))
    clustered, single = (
        log_e_values(update(begin(RATIO), RATIO, each, step=0, now=0.0))[0] for each in (burst, alone)
    )
    assert clustered == pytest.approx(single, abs=0.01)
    plain = Increment(blocks=(Block(200, 5, 20_000, 0),))
    assert log_e_values(update(begin(RATIO), RATIO, plain, step=0, now=0.0))[0] > 4 * clustered


def test_a_burst_counts_no_more_when_looks_part_it():
    growing = [0, *accumulate(2 * before for before in range(5))]
    at_once, parted = begin(RATIO), begin(RATIO)
    for number in range(5):
        made = growing[number + 1] - growing[number]
        one = block((40, 1, made, made), (4000, 0, 0, 0))
        parted = update(parted, RATIO, Increment(blocks=(one,)), step=0, now=0.0)
    whole = Increment(blocks=(block(in_clusters_of(5, 1, 200), (20_000, 0, 0, 0)),))
    at_once = update(at_once, RATIO, whole, step=0, now=0.0)
    assert log_e_values(parted)[0] == pytest.approx(log_e_values(at_once)[0], abs=0.3)


@pytest.mark.parametrize("name", ["worse", "fine", "intolerable", "tolerable"])
def test_all_bets_are_tempered(name):
    plain = Increment(blocks=(Block(1000, 50, 10_000, 200),))
    clustered = Increment(blocks=(block((1000, 50, 200, 200), (10_000, 200, 800, 800)),))
    start = begin(RATIO)
    loud, quiet = (
        getattr(update(start, RATIO, each, step=0, now=0.0), name).logs for each in (plain, clustered)
    )
    found = clusters.update(Clusters(), clustered.blocks).design_effect
    for before, after, tempered in zip(getattr(start, name).logs, loud, quiet, strict=True):
        assert tempered - before == pytest.approx((after - before) / found)


def test_the_interval_is_as_wide_as_with_so_many_fewer():
    effect_of_5 = block(in_clusters_of(5, 20, 10_000), in_clusters_of(5, 200, 100_000))
    fifth = Block(2000, 20, 20_000, 200)
    for test in (RATIO, Test(kind="rate", limit=0.02)):
        found, fewer = (
            finding(update(begin(test), test, Increment(blocks=(each,)), step=0, now=0.0), test)
            for each in (effect_of_5, fifth)
        )
        assert found.effect == pytest.approx(fewer.effect)
        assert (found.low, found.high) == pytest.approx((fewer.low, fewer.high), rel=0.03)
        assert found.samples == 5 * fewer.samples


def test_more_answers_are_missing_where_they_come_in_clusters():
    ours, theirs = (500, 10, 40, 40), (50_000, 500, 2000, 2000)
    plain, clustered = (
        finding(update(begin(RATIO), RATIO, Increment(blocks=(each,)), step=0, now=0.0), RATIO)
        for each in (Block(*ours[:2], *theirs[:2]), block(ours, theirs))
    )
    assert clustered.missing > 3 * plain.missing


def test_what_was_stored_before_callers_were_counted_is_read_and_counts_as_before():
    stored = begin(RATIO).model_dump(mode="json")
    del stored["clusters"]
    stored["counts"] = {name: n for name, n in stored["counts"].items() if "pairs" not in name}
    assert Evidence.model_validate(stored) == begin(RATIO)


def test_a_new_step_keeps_what_is_known_of_callers():
    fives = Increment(blocks=(block(in_clusters_of(5, 10, 10_000)),))
    first = update(begin(RATIO), RATIO, fives, step=0, now=0.0)
    second = update(first, RATIO, Increment(), step=1, now=0.0)
    assert second.clusters == first.clusters


def test_a_quantile_has_no_clusters():
    test = Test(kind="quantile_ratio", limit=1.5, quantile=0.5)
    evidence = update(begin(test), test, Increment(blocks=(Block(100, 50, 1000, 500),)), step=0, now=0.0)
    assert math.isclose(evidence.clusters.design_effect, 1)
