from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import IntegrityError
from serve_apps.rollout.judge.blocks import Block
from serve_apps.rollout.judge.evidence import Evidence, Increment, begin, update
from serve_apps.rollout.judge.finding import finding, judge, log_e_values
from serve_apps.rollout.judge.terms import Test
from tests.serve_apps.rollout.judge.samples import blocks

TESTS = {
    "ratio": Test(kind="ratio", limit=1.5, tolerate=0.01),
    "rate": Test(kind="rate", limit=0.02),
    "rate, lower": Test(kind="rate", limit=0.9, direction="lower"),
    "quantile_ratio": Test(kind="quantile_ratio", limit=1.5, quantile=0.99),
    "quantile_limit": Test(kind="quantile_limit", limit=0.8, quantile=0.95),
    "paired": Test(kind="paired", limit=0.02, direction="lower"),
    "threshold": Test(kind="threshold", limit=0.01, duration_s=300),
}
ALL = pytest.mark.parametrize("test", TESTS.values(), ids=TESTS)
DIFFERENCES = st.lists(st.tuples(st.floats(-1, 1), st.integers(0, 30)), max_size=4).map(tuple)
LOOKS = st.lists(
    st.builds(Increment, blocks=st.lists(blocks(300), max_size=3).map(tuple), differences=DIFFERENCES),
    max_size=6,
)


def after(test, looks, step=0, evidence=None, now=0.0):
    evidence = evidence or begin(test, step)
    for number, look in enumerate(looks):
        evidence = update(evidence, test, look, step=step, now=now + 10.0 * number)
    return evidence


@ALL
@given(looks=LOOKS)
def test_it_and_what_is_found_come_back_from_json(test, looks):
    evidence = after(test, looks)
    again = Evidence.model_validate_json(evidence.model_dump_json())
    assert again == evidence
    found = finding(evidence, test)
    assert type(found).model_validate_json(found.model_dump_json()) == found == finding(again, test)


@ALL
def test_its_size_does_not_grow_with_what_it_has_seen(test):
    evidence, sizes = begin(test), []
    look = Increment(blocks=(Block(40, 3, 200, 7),), differences=((0.0, 5), (-1.0, 1)))
    for step in range(40):
        for number in range(20):
            evidence = update(evidence, test, look, step=step, now=200.0 * step + 10.0 * number)
        sizes.append(len(evidence.model_dump_json()))
    assert max(sizes) < 1500
    assert max(sizes[1:]) - min(sizes[1:]) < 250


@ALL
def test_a_hundred_million_answers_do_not_overflow(test):
    huge = Increment(blocks=(Block(10**8, 10**7, 10**8, 10**6),), differences=((-1.0, 10**8), (1.0, 10**7)))
    evidence = after(test, [huge, huge])
    found = finding(evidence, test)
    numbers = [*log_e_values(evidence), found.effect, found.low, found.high]
    assert all(math.isfinite(number) for number in numbers if number is not None)


@pytest.mark.parametrize("name", [name for name in TESTS if name != "threshold"])
@given(looks=LOOKS, order=st.randoms())
def test_looks_at_one_step_count_in_any_order(name, looks, order):
    test = TESTS[name]
    one, other = after(test, looks), after(test, order.sample(looks, len(looks)))
    assert log_e_values(one) == pytest.approx(log_e_values(other), abs=1e-6)
    assert one.counts == other.counts


@given(LOOKS)
def test_strata_are_blocks_of_their_own(looks):
    test = TESTS["ratio"]
    split = [Increment(blocks=(block,)) for look in looks for block in look.blocks]
    assert log_e_values(after(test, looks)) == pytest.approx(log_e_values(after(test, split)), abs=1e-6)


def test_a_new_step_counts_anew_but_keeps_what_speaks_against_the_candidate():
    test = TESTS["ratio"]
    bad = Increment(blocks=(Block(200, 30, 2000, 30),))
    first = after(test, [bad])
    second = update(first, test, Increment(), step=1, now=0.0)
    assert (second.step, second.counts) == (1, Block())
    assert second.fine == second.tolerable == begin(test).fine
    assert log_e_values(second)[0] == pytest.approx(log_e_values(first)[0])
    assert second.worse != first.worse


def test_a_fault_that_begins_late_is_found_as_if_nothing_had_been_before():
    test = TESTS["ratio"]
    good, bad = (Increment(blocks=(Block(100, errors, 10_000, 100),)) for errors in (1, 5))
    fresh = next(n for n in range(1, 100) if judge(after(test, [bad] * n), test).value == "fail")
    evidence = after(test, [good] * 5000)
    for step in (1, 2):
        evidence = after(test, [good] * 5000, step, evidence)
    late = next(n for n in range(1, 100) if judge(after(test, [bad] * n, 3, evidence), test).value == "fail")
    assert fresh < late <= 2 * fresh
    assert judge(after(test, [bad] * 100, 2, evidence), test).value != "fail"


def test_pairs_count_for_all_steps_since_answers_do_not_depend_on_the_weight():
    test = TESTS["paired"]
    pairs = Increment(differences=((0.0, 95), (-1.0, 3), (1.0, 2)))
    evidence = after(test, [pairs] * 5)
    later = update(evidence, test, Increment(), step=1, now=0.0)
    assert later == evidence.model_copy(update={"step": 1})


def test_what_came_before_is_not_changed():
    test = TESTS["ratio"]
    evidence = after(test, [Increment(blocks=(Block(10, 1, 10, 1),))])
    copy = evidence.model_copy(deep=True)
    update(evidence, test, Increment(blocks=(Block(10, 9, 10, 0),)), step=3, now=1.0)
    assert evidence == copy


def test_impossible_data_are_told():
    with pytest.raises(IntegrityError, match="from -1 to 1"):
        update(begin(TESTS["paired"]), TESTS["paired"], Increment(differences=((2.0, 1),)), step=0, now=0.0)
    with pytest.raises(ValueError, match="numbered from 0"):
        begin(TESTS["rate"], -1)
