import os
import threading

import pytest

from cluster.errors import StorageError, TimedOutError
from train_jobs import checkpoint
from train_jobs.writer import Writer


def commit(files, step):
    return checkpoint.commit(files, {"a": b"1"}, step=step, attempt=1, world_size=1, metrics={})


class Gate:
    """A commit that goes on when it is told to."""

    def __init__(self, files, step):
        self.files, self.step = files, step
        self.began, self.may_go_on = threading.Event(), threading.Event()

    def __call__(self):
        self.began.set()
        assert self.may_go_on.wait(30)
        return commit(self.files, self.step)


def refuse():
    raise StorageError("The disk is full.", code="storage.full")


def test_training_goes_on_while_a_checkpoint_is_written(files):
    told = []
    writer = Writer(lambda committed, seconds: told.append((committed.manifest.step, seconds)))
    gate = Gate(files, 3)
    assert writer.submit(gate) < 5
    assert gate.began.wait(30)
    assert writer.busy
    assert writer.last_committed is None
    writer.check()

    gate.may_go_on.set()
    writer.drain(30)

    assert not writer.busy
    assert writer.last_committed == 3
    assert told[0][0] == 3
    assert told[0][1] > 0
    assert checkpoint.discover(files).newest.manifest.step == 3


def test_the_next_waits_for_the_one_before_and_the_wait_is_counted(files):
    writer = Writer()
    gate = Gate(files, 1)
    writer.submit(gate)
    threading.Timer(0.3, gate.may_go_on.set).start()

    waited = writer.submit(lambda: commit(files, 2))
    writer.drain(30)

    assert 0.2 < waited == pytest.approx(writer.waited_s, abs=0.01)
    assert checkpoint.committed_steps(files) == [1, 2]


@pytest.mark.parametrize("ask", [lambda w: w.check(), lambda w: w.drain(5), lambda w: w.submit(refuse)])
def test_a_failed_commit_is_raised_once_on_the_thread_that_asks(files, ask):
    writer = Writer()
    writer.submit(refuse)
    assert writer.wait(30)
    with pytest.raises(StorageError) as caught:
        ask(writer)
    assert caught.value.code == "storage.full"
    writer.check()
    assert writer.last_committed is None
    writer.submit(lambda: commit(files, 4))
    writer.drain(30)
    assert writer.last_committed == 4


def test_a_fault_in_what_follows_a_commit_is_not_swallowed(files):
    def fail(_committed, _seconds):
        raise ZeroDivisionError

    writer = Writer(fail)
    writer.submit(lambda: commit(files, 1))
    with pytest.raises(ZeroDivisionError):
        writer.drain(30)
    assert writer.last_committed == 1


def test_a_drain_that_takes_too_long_says_so_and_may_be_repeated(files):
    writer = Writer()
    gate = Gate(files, 1)
    writer.submit(gate)
    with pytest.raises(TimedOutError) as caught:
        writer.drain(0.05)
    assert caught.value.code == "train.commit_slow"
    gate.may_go_on.set()
    writer.drain(30)
    assert writer.last_committed == 1


def test_nothing_is_drained_where_nothing_was_submitted():
    writer = Writer()
    writer.drain(0)
    assert not writer.busy
    assert writer.wait(0)


def test_the_writing_thread_alone_gives_way_to_the_steps(files):
    seen = []

    def look():
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return commit(files, 1)

    before = os.getpriority(os.PRIO_PROCESS, 0)
    writer = Writer()
    writer.submit(look)
    writer.drain(30)
    assert seen == [min(before + 4, 19)]
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
