from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_apps.rollout.judge.threshold import PARTS, Window, covers, exceeded, is_within, rate, update

LIMIT, DURATION_S = 0.01, 300.0
NOON = 1_800_000_000.0


def after(looks, every_s=10.0, start=NOON):
    """From counts of looks that follow each other."""
    window = Window()
    for number, (n, bad) in enumerate(looks):
        window = update(window, n, bad, now=start + number * every_s, duration_s=DURATION_S)
    return window


def is_exceeded(window, higher=True):
    return exceeded(window, LIMIT, DURATION_S, higher=higher)


def test_it_is_exceeded_once_it_has_been_for_that_long():
    bad = [(100, 3)] * 40
    first = next(number for number in range(1, 41) if is_exceeded(after(bad[:number])))
    assert (first - 1) * 10.0 == DURATION_S


def test_one_bad_moment_is_not_enough():
    looks = [(100, 0)] * 40 + [(100, 100)] * 3
    assert rate(after(looks)) > LIMIT
    assert not is_exceeded(after(looks))


def test_looks_that_see_nothing_bad_by_chance_do_not_end_it():
    assert is_exceeded(after([(10, 1), (10, 0), (10, 0)] * 20))


def test_good_news_end_it():
    assert not is_exceeded(after([(100, 3)] * 40 + [(100, 0)] * 6))


def test_it_is_within_after_that_long_without():
    assert not is_within(after([(100, 0)] * 30), LIMIT, DURATION_S, higher=True)
    assert is_within(after([(100, 0)] * 31), LIMIT, DURATION_S, higher=True)
    assert not is_within(after([(100, 3)] * 31), LIMIT, DURATION_S, higher=True)


def test_without_requests_it_is_neither():
    idle = after([(100, 3)] * 40 + [(0, 0)] * 60)
    assert rate(idle) is None
    assert not is_exceeded(idle)
    assert not is_within(idle, LIMIT, DURATION_S, higher=True)


def test_requests_in_few_parts_are_too_few_to_say():
    assert not is_exceeded(after([(0, 0)] * 60 + [(100, 50)]))


def test_where_lower_is_worse_it_is_the_other_way_round():
    few = after([(1000, 1)] * 40)
    assert is_exceeded(few, higher=False)
    assert not is_exceeded(few)
    assert is_within(few, LIMIT, DURATION_S, higher=True)


def test_a_clock_that_goes_back_stands_still():
    window = after([(100, 3)] * 40)
    back = update(window, 100, 3, now=NOON - 10_000, duration_s=DURATION_S)
    assert back.seen == window.seen
    assert sum(part.n for part in back.parts) == sum(part.n for part in window.parts) + 100
    assert is_exceeded(back)


def test_a_clock_that_jumps_ahead_leaves_no_old_requests():
    jumped = update(after([(100, 3)] * 40), 5, 0, now=NOON + 1e6, duration_s=DURATION_S)
    assert (rate(jumped), covers(jumped, DURATION_S)) == (0.0, True)
    assert not is_exceeded(jumped)


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1e5)), max_size=80))
def test_it_stays_small_and_comes_back_from_json(looks):
    window = Window()
    for n, later in looks:
        window = update(window, n, n // 2, now=NOON + later, duration_s=DURATION_S)
    assert len(window.parts) <= PARTS + 1
    assert [part.index for part in window.parts] == sorted({part.index for part in window.parts})
    assert Window.model_validate_json(window.model_dump_json()) == window


@pytest.mark.parametrize("every_s", [0.5, 7.0, 59.0])
def test_how_often_somebody_looks_changes_nothing(every_s):
    number = int(1000 / every_s)
    assert is_exceeded(after([(20, 1)] * number, every_s))
    assert is_within(after([(20, 0)] * number, every_s), LIMIT, DURATION_S, higher=True)
