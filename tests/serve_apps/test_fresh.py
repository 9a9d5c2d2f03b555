from __future__ import annotations

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from cluster.judging import Fresh
from serve_apps.fresh import fresh

BEGAN = datetime(2026, 3, 1, 12)


def asked(others=1):
    return Fresh(since=BEGAN, others=others)


def ages(**minutes):
    """Minutes after the rollout began, by name."""
    return {name: BEGAN + timedelta(minutes=after) for name, after in minutes.items()}


def test_the_first_that_started_since_are_fresh_as_many_as_the_candidate_has():
    started = ages(old=-60, late=9, first=1, second=2)
    assert fresh(list(started), started, asked(), like=1) == {"first"}
    assert fresh(list(started), started, asked(), like=2) == {"first", "second"}
    assert fresh(list(started), started, asked(), like=0) == {"first"}


def test_one_in_the_place_of_another_that_was_lost_is_needed_by_all():
    started = ages(old=-60, replaced=3)
    assert fresh(list(started), started, asked(others=2), like=1) == set()
    assert fresh([*started, "new"], started | ages(new=4), asked(others=2), like=1) == {"replaced"}


def test_one_whose_start_is_not_known_is_not_fresh():
    assert fresh(["old", "unknown"], ages(old=-60), asked(), like=1) == set()


NAMES = st.sampled_from("abcdefgh")
STARTS = st.dictionaries(NAMES, st.integers(-5, 5).map(lambda m: BEGAN + timedelta(minutes=m)))


@given(st.sets(NAMES), STARTS, st.integers(1, 4), st.integers(0, 4))
def test_never_are_fewer_left_to_the_others_than_there_were(running, started, others, like):
    found = fresh(running, started, asked(others), like=like)
    assert len(running - found) >= min(others, len(running))
    assert len(found) <= max(1, like)
    assert all(started[name] > BEGAN for name in found)


@given(st.sets(NAMES), STARTS, st.integers(1, 4), st.integers(0, 4))
def test_one_that_comes_later_moves_nobody(running, started, others, like):
    later = started | {"z": BEGAN + timedelta(hours=1)}
    before = fresh(running, started, asked(others), like=like)
    assert before <= fresh(running | {"z"}, later, asked(others), like=like)
