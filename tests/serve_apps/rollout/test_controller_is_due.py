from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_apps.rollout.controller import is_due
from serve_apps.rollout.looks import Progress

LOOKED = datetime(2026, 3, 1)


def due(waited_s, watched_s=0.0, *, has_news=True):
    progress = Progress(looked_at=LOOKED, watched_s=watched_s)
    return is_due(progress, LOOKED + timedelta(seconds=waited_s), has_news=has_news)


@pytest.mark.parametrize("has_news", [True, False])
def test_the_first_look_is_due_at_once(has_news):
    assert is_due(Progress(), LOOKED, has_news=has_news)


@pytest.mark.parametrize(
    ("watched_s", "waits_s"), [(0, 1), (50, 1), (100, 2), (600, 12), (1500, 30), (86_400, 30)]
)
def test_news_wait_for_a_fiftieth_of_the_steps_age(watched_s, waits_s):
    assert due(waits_s, watched_s)
    assert not due(waits_s - 0.01, watched_s)


def test_silence_is_looked_at_now_and_then():
    assert not due(29.99, has_news=False)
    assert due(30, has_news=False)


@given(st.floats(-1e6, -0.001), st.booleans())
def test_after_a_clock_that_went_back_it_is_due_whatever_the_time(waited_s, has_news):
    assert due(waited_s, has_news=has_news)


@given(st.floats(0, 1e5), st.floats(0, 1e6))
def test_silence_is_never_more_urgent_than_news(waited_s, watched_s):
    assert due(waited_s, watched_s) or not due(waited_s, watched_s, has_news=False)
