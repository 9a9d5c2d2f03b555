from __future__ import annotations

import threading

from serve_apps.access_log.ticking import Ticking
from tests.serve_apps.gateway.servers import eventually


def test_work_goes_on_until_it_is_stopped_and_is_done_once_more_then():
    done = []
    ticking = Ticking("t", lambda: done.append(1) or 0.001)
    ticking.start()
    ticking.start()
    eventually(lambda: len(done) > 3, "it ticks")
    before = len(done)
    ticking.stop(10)
    assert len(done) > before
    assert "t" not in {thread.name for thread in threading.enumerate()}


def test_the_last_time_does_not_wait_for_the_pause():
    done = []
    ticking = Ticking("t", lambda: done.append(1) or 1e6)
    ticking.start()
    eventually(lambda: done, "it began")
    ticking.stop(10)
    assert len(done) == 2


def test_a_fault_ends_nothing(caplog):
    done = []

    def work():
        done.append(1)
        raise ValueError("odd")

    ticking = Ticking("t", work)
    ticking.start()
    eventually(lambda: done, "it began")
    ticking.stop(10)
    assert len(done) == 2
    assert "odd" in caplog.text


def test_one_that_never_began_stops_at_once():
    Ticking("t", lambda: 1.0).stop(10)
