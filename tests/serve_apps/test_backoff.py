from __future__ import annotations

import random
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.state.losses import Life
from serve_apps.backoff import EARLY, FREE, LONGEST_S, WINDOW, pause

DAWN = datetime(2026, 11, 22)
LOAD_S, NOTICE_S = 12.0, 3.0


def at(seconds):
    return DAWN + timedelta(seconds=seconds)


def life(lost_s, served_s):
    return Life(at(lost_s - served_s), at(lost_s))


def storm(count, every_s=5.0):
    return [life(number * every_s, 3.0) for number in range(count)]


def seconds(lives, now_s):
    found = pause(lives, at(now_s))
    return (found.until - at(now_s)).total_seconds() if found else 0.0


@pytest.mark.parametrize(
    ("early", "pause_s"), [(0, 0), (3, 0), (4, 2), (5, 4), (6, 8), (7, 16), (8, 32), (9, 60), (30, 60)]
)
def test_the_pause_doubles_with_each_early_loss_beyond_three(early, pause_s):
    assert seconds(storm(early), (early - 1) * 5.0) == pause_s


def test_it_is_counted_from_the_newest_loss_and_over_when_it_is_over():
    lives = storm(5)
    assert seconds(lives, 20.0) == 4.0
    assert seconds(lives, 23.0) == 1.0
    assert pause(lives, at(24.0)) is None
    found = pause(lives, at(20.0))
    assert (found.losses, found.until) == (5, at(24.0))
    assert "last 5 replicas" in found.reason


def test_a_replica_that_served_for_a_while_ends_the_storm():
    lives = [*storm(8), life(60.0, 40.0)]
    assert pause(lives, at(60.0)) is None
    again = [life(70.0 + number, 2.0) for number in range(FREE + 1)]
    assert seconds([*lives, *again], 73.0) == 2.0


def test_of_two_that_were_lost_at_once_the_longer_life_counts():
    both = [life(35.0, 3.0), life(35.0, 40.0)]
    for lives in (both, both[::-1]):
        assert pause([*storm(7), *lives], at(35.0)) is None


def test_one_of_which_nothing_is_known_was_not_lost_early():
    assert pause([*storm(8), Life(None, at(60.0))], at(60.0)) is None


def test_an_old_storm_is_forgotten():
    newest = 7 * 5.0
    assert pause(storm(8), at(newest) + WINDOW) is None


def test_a_gateways_clock_that_runs_ahead_makes_no_pause_longer():
    ahead = [life(3600.0 + number, 2.0) for number in range(20)]
    assert seconds(ahead, 0.0) == LONGEST_S


lives = st.lists(st.builds(life, st.floats(0, 2000), st.floats(0, 60)), max_size=40)


@given(lives, st.floats(0, 2000), st.randoms())
def test_it_is_bounded_and_does_not_depend_on_the_order(found, now_s, shuffle):
    assert 0.0 <= seconds(found, now_s) <= LONGEST_S
    assert pause(shuffle.sample(found, len(found)), at(now_s)) == pause(found, at(now_s))


@given(lives, st.floats(0, 2000), st.floats(0, 14.9))
def test_one_more_early_loss_never_shortens_it(found, now_s, served_s):
    assert EARLY.total_seconds() > served_s
    past = [one for one in found if one.lost_at <= at(now_s)]
    assert seconds([*past, life(now_s, served_s)], now_s) >= seconds(past, now_s)


@given(st.lists(st.floats(16, 600), max_size=60))
def test_kills_of_replicas_that_have_served_are_never_slowed(ages):
    found = [life(number * 1.0, age) for number, age in enumerate(ages)]
    assert pause(found, at(len(ages))) is None


def drill(seed, minutes):
    """One of two replicas is killed whenever both serve; seconds of all pauses."""
    draw, now, proven, found, paused = random.Random(seed), 0.0, [-100.0, -100.0], [], 0.0
    while now < 60 * minutes:
        victim = draw.randrange(2)
        found.append(Life(at(proven[victim]), at(now)))
        waits = seconds(found, now + NOTICE_S)
        paused += waits
        proven[victim] = now + NOTICE_S + waits + LOAD_S
        now = proven[victim] + draw.uniform(0.0, 2.0)
    return paused, len(found)


def test_drills_of_twenty_minutes_over_two_replicas_are_hardly_slowed():
    """The victim has just started half of the time, but seldom many times in a row."""
    runs = [drill(seed, 20) for seed in range(40)]
    assert min(kills for _, kills in runs) >= 50
    assert sum(paused for paused, _ in runs) / len(runs) < 0.05 * 1200


@pytest.mark.parametrize("load_s", [10.0, 40.0])
def test_a_storm_starts_far_fewer_replicas(load_s):
    def restarts(backs_off):
        now, found = 0.0, []
        while now < 1200:
            found.append(life(now, 3.0))
            waits = seconds(found, now + NOTICE_S) if backs_off else 0.0
            now += NOTICE_S + waits + load_s + 3.0
        return len(found)

    assert restarts(backs_off=True) < 0.7 * restarts(backs_off=False)
