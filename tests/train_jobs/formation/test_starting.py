"""Newcomers that never get warm, on a clock of our own."""

from train_jobs.formation.messages import Joined
from train_jobs.formation.starting import MOST_FAILURES, Starts


def newcomer(rank, number=0):
    return Joined(f"{rank}.{number}", rank, 100 + number, "192.0.2.1", "node", None)


def test_a_newcomer_that_gets_warm_is_no_failure():
    starts = Starts()
    assert starts.begun(newcomer(0, 1), 10.0) is None
    starts.warm("0.1")
    assert starts.begun(newcomer(0, 2), 20.0) is None
    assert starts.failures == 0


def test_who_comes_in_place_of_one_that_never_got_warm_tells_of_its_end():
    starts = Starts()
    starts.begun(newcomer(0, 1), 10.0)
    starts.begun(newcomer(1, 2), 10.0)
    assert starts.begun(newcomer(0, 3), 20.0).worker == "0.1"
    assert starts.failures == 1


def test_a_failure_that_was_told_is_not_counted_again():
    starts = Starts()
    starts.begun(newcomer(0, 1), 10.0)
    assert starts.failed("0.1", 11.0)
    assert not starts.failed("0.1", 12.0)
    assert starts.begun(newcomer(0, 2), 20.0) is None
    assert starts.failures == 1


def test_after_the_third_failure_the_next_ones_wait_longer_each_time():
    starts, now, waits = Starts(), 0.0, []
    for number in range(MOST_FAILURES + 3):
        assert starts.may_begin(now)
        starts.begun(newcomer(0, number), now)
        starts.failed(f"0.{number}", now)
        began = now
        while not starts.may_begin(now):
            now += 0.5
        waits.append(now - began)
    assert waits == [0.0, 0.0, 1.0, 2.0, 4.0, 8.0]
    starts.formed()
    assert (starts.failures, starts.may_begin(now)) == (0, True)


def test_who_is_not_heard_of_is_silent():
    starts = Starts()
    starts.begun(newcomer(0, 1), 0.0)
    starts.begun(newcomer(1, 2), 0.0)
    starts.beat("1.2", 50.0)
    starts.beat("9.9", 50.0)
    assert [joined.worker for joined in starts.silent(61.0)] == ["0.1"]
    starts.failed("0.1", 61.0)
    assert starts.silent(62.0) == []
