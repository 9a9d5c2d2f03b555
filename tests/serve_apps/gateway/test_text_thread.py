from __future__ import annotations

import threading

from serve_apps.gateway.text_thread import TextThread


def test_work_is_done_in_one_other_thread_and_what_waits_is_done_before_the_end():
    thread, done = TextThread(), []
    for number in range(20):
        assert thread.offer(lambda number=number: done.append((number, threading.get_ident())))
    thread.stop()
    assert [number for number, _ in done] == list(range(20))
    assert {ident for _, ident in done} & {threading.get_ident()} == set()
    assert len({ident for _, ident in done}) == 1


def test_when_too_much_waits_more_is_dropped():
    thread, begun, release, done = TextThread(waiting=2), threading.Event(), threading.Event(), []

    def wait():
        begun.set()
        release.wait(20)

    assert thread.offer(wait)
    assert begun.wait(20)
    assert [thread.offer(lambda: done.append(1)) for _ in range(4)] == [True, True, False, False]
    release.set()
    thread.stop()
    assert done == [1, 1]


def test_a_fault_is_told_and_the_next_text_is_looked_at(caplog):
    thread, done = TextThread(), []
    thread.offer(lambda: 1 / 0)
    thread.offer(lambda: done.append(1))
    thread.stop()
    thread.stop()
    assert done == [1]
    assert "ZeroDivisionError" in caplog.text


def test_it_costs_no_thread_before_the_first_text():
    before = threading.active_count()
    TextThread().stop()
    assert threading.active_count() == before
