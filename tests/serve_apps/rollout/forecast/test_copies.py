from __future__ import annotations

import heapq
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_apps.gateway.shadow import IN_FLIGHT
from serve_apps.rollout.forecast.copies import sent
from serve_apps.rollout.judge.sketch import EMPTY
from tests.serve_apps.rollout.judge.samples import sketch_of


def simulated(offered, lengths, seconds=20_000.0):
    draw, now, busy, taken = random.Random(3), 0.0, [], 0
    while now < seconds:
        now += draw.expovariate(offered)
        while busy and busy[0] <= now:
            heapq.heappop(busy)
        if len(busy) < IN_FLIGHT:
            heapq.heappush(busy, now + draw.choice(lengths))
            taken += 1
    return taken / seconds


@pytest.mark.parametrize("lengths", [[2.0], [0.1, 0.1, 5.8]])
@pytest.mark.parametrize("offered", [0.2, 1.0, 5.0])
def test_as_many_are_sent_as_find_room(offered, lengths):
    assert sent(offered, sketch_of(lengths * 50)) == pytest.approx(simulated(offered, lengths), rel=0.05)


@given(st.floats(0.01, 1000), st.floats(0.01, 100))
def test_never_more_than_there_are_nor_than_can_be_under_way(offered, seconds):
    found = sent(offered, sketch_of([seconds]))
    assert 0 < found <= offered
    assert found <= 1.02 * IN_FLIGHT / seconds


@pytest.mark.parametrize("unknown", [None, EMPTY])
def test_where_nobody_knows_how_long_answers_take_all_are_sent(unknown):
    assert sent(3.0, unknown) == 3.0


def test_of_no_copies_none_is_sent():
    assert sent(0.0, sketch_of([1.0])) == 0.0
