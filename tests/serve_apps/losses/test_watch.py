from hypothesis import given
from hypothesis import strategies as st

from cluster.state.losses import Signal
from serve_apps.losses.watch import LossWatch, Trace, Vanished

PLACE = ("m", "v1")


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_what_was_noted_of_a_replica_comes_with_its_end():
    clock = Clock()
    watch = LossWatch(clock)
    assert watch.look({"a": PLACE, "b": PLACE}) == []
    watch.heard("a")
    clock.now = 101.0
    watch.missed("a", Signal.REFUSED)
    clock.now = 102.0
    watch.missed("a", Signal.DROPPED)
    watch.retried("a")
    watch.continued("a")
    watch.failed("a")
    [gone] = watch.look({"b": PLACE})
    assert gone == Vanished("a", PLACE, 102.0, Trace(100.0, 101.0, Signal.REFUSED, 1, 1, 1))
    assert watch.look({"b": PLACE}) == []


def test_an_answer_takes_back_what_was_missed_before():
    watch = LossWatch(Clock())
    watch.look({"a": PLACE})
    watch.missed("a", Signal.DROPPED)
    watch.heard("a")
    [gone] = watch.look({})
    assert gone.trace.signal is None


@given(st.lists(st.sets(st.sampled_from("abcd")), min_size=1))
def test_each_replica_that_goes_is_told_once_each_time(lists):
    watch = LossWatch(Clock())
    before: set[str] = set()
    for names in lists:
        assert {gone.replica for gone in watch.look(dict.fromkeys(names, PLACE))} == before - names
        before = names
