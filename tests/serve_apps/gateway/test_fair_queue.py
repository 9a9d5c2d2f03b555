from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serve_apps.gateway.fair_queue import FairQueue

LANES = st.sampled_from("abcd")


class AgainstAModel(RuleBasedStateMachine):
    """Every item pushed is waiting, was popped, discarded or turned away; never two of these."""

    def __init__(self):
        super().__init__()
        self.bound = 6
        self.queue: FairQueue[int] = FairQueue(self.bound)
        self.lanes: dict[str, list[int]] = {}
        self.passed_over: dict[str, int] = {}
        self.number = 0

    @rule(lane=LANES)
    def push(self, lane):
        self.number += 1
        before = {name: len(items) for name, items in self.lanes.items()}
        turned_away = self.queue.push(lane, self.number)
        self.lanes.setdefault(lane, []).append(self.number)
        self.passed_over.setdefault(lane, 0)
        if sum(before.values()) < self.bound:
            assert turned_away is None
            return
        assert turned_away is not None
        (loser,) = [name for name, items in self.lanes.items() if turned_away in items]
        assert self.lanes[loser][-1] == turned_away, "the newest of its lane goes"
        assert len(self.lanes[loser]) == max(map(len, self.lanes.values())), "and of the longest"
        self.take_out(loser, turned_away)

    @precondition(lambda self: self.lanes)
    @rule()
    def pop(self):
        item = self.queue.pop()
        (lane,) = [name for name, items in self.lanes.items() if item in items]
        assert self.lanes[lane][0] == item, "first in, first out within a lane"
        for name in self.passed_over:
            self.passed_over[name] += 1
        self.passed_over[lane] = 0
        self.take_out(lane, item)
        assert all(count < len("abcd") for count in self.passed_over.values()), "nobody starves"

    @precondition(lambda self: self.lanes)
    @rule(data=st.data())
    def discard(self, data):
        lane = data.draw(st.sampled_from(sorted(self.lanes)))
        item = data.draw(st.sampled_from(self.lanes[lane]))
        self.queue.discard(lane, item)
        self.queue.discard(lane, item)
        self.take_out(lane, item)

    def take_out(self, lane, item):
        self.lanes[lane].remove(item)
        if not self.lanes[lane]:
            del self.lanes[lane], self.passed_over[lane]

    @invariant()
    def the_size_is_known_and_bounded(self):
        assert len(self.queue) == sum(map(len, self.lanes.values())) <= self.bound


TestAgainstAModel = AgainstAModel.TestCase


def drained(queue):
    return [queue.pop() for _ in range(len(queue))]


@given(st.integers(1, 1000))
def test_one_request_waits_for_one_of_each_other_lane_however_many_these_have(many):
    queue = FairQueue(2000)
    for number in range(many):
        queue.push("greedy", ("greedy", number))
    queue.push("modest", ("modest", 0))
    assert drained(queue).index(("modest", 0)) <= 1


@given(st.lists(LANES, max_size=40))
def test_lanes_take_turns_until_they_are_empty(lanes):
    queue = FairQueue(100)
    for number, lane in enumerate(lanes):
        queue.push(lane, (lane, number))
    served = [lane for lane, _ in drained(queue)]
    for position, lane in enumerate(served):
        rest = served[position + 1 :]
        if lane in rest:
            between = rest[: rest.index(lane)]
            assert len(between) == len(set(between)), "no lane twice between two turns of another"
            assert set(between) >= set(rest) - {lane}, "every lane that still waits had its turn"


def test_a_full_queue_makes_room_for_a_lane_that_waits_less():
    queue = FairQueue(3)
    assert [queue.push("greedy", number) for number in range(4)] == [None, None, None, 3]
    assert queue.push("modest", 10) == 2
    assert queue.push("modest", 11) == 11
    assert queue.push("third", 20) == 1
    assert queue.push("fourth", 30) == 30
    assert drained(queue) == [0, 10, 20]


def test_without_room_nobody_waits():
    queue = FairQueue(0)
    assert queue.push("a", 1) == 1
    assert len(queue) == 0


def test_popping_nothing_is_an_error():
    with pytest.raises(KeyError):
        FairQueue(1).pop()
