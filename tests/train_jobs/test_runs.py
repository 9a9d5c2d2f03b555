import os
import subprocess
import sys
from datetime import timedelta

import psutil
import pytest

from cluster.errors import ConflictError, NotFoundError
from cluster.state import events
from cluster.state.database import open_database
from cluster.state.tables import utc_now
from train_jobs import runs
from train_jobs.runs import Driver, RunStatus


@pytest.fixture
def database(settings):
    return open_database(settings.state_url)


def claim(database, driver, name="run-1"):
    with database.transaction() as session:
        runs.claim(session, name, driver=driver, spec_sha256="0" * 64, total_steps=8)


def dead_driver():
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    started = psutil.Process(child.pid).create_time()
    child.wait()
    return runs.this_driver("b").model_copy(update={"pid": child.pid, "started": started})


def status_of(database, lives=runs.driver_lives, now=None):
    with database.snapshot() as session:
        return runs.effective(runs.require(session, "run-1"), now or utc_now(), lives)


def test_a_claimed_run_starts_and_says_so_as_an_event(database):
    claim(database, runs.this_driver("a"))
    assert status_of(database)[0] is RunStatus.STARTING
    with database.snapshot() as session:
        assert [e.detail["status"] for e in events.recent(session, "run/run-1")] == ["starting"]


def test_a_second_driver_is_refused_while_the_first_lives(database):
    claim(database, runs.this_driver("a"))
    with pytest.raises(ConflictError, match=f"pid {os.getpid()}"):
        claim(database, runs.this_driver("b"))


def test_a_run_whose_driver_died_is_interrupted_and_can_be_claimed(database):
    claim(database, dead_driver())
    assert status_of(database) == (RunStatus.INTERRUPTED, "driver_lost")
    claim(database, runs.this_driver("c"))
    assert status_of(database)[0] is RunStatus.STARTING


def test_a_reused_pid_is_not_the_driver(database):
    claim(database, runs.this_driver("a").model_copy(update={"started": 1.0}))
    assert status_of(database)[0] is RunStatus.INTERRUPTED


def test_a_driver_on_another_host_lives_as_long_as_it_renews(database):
    claim(database, Driver(pid=1, started=1.0, host="elsewhere", launch="a"))
    assert status_of(database)[0] is RunStatus.STARTING
    assert status_of(database, now=utc_now() + 2 * runs.LEASE)[0] is RunStatus.INTERRUPTED
    later = utc_now() + runs.LEASE - timedelta(seconds=5)
    assert status_of(database, now=later)[0] is RunStatus.STARTING


def test_renewing_moves_the_step_on_and_turns_starting_into_running(database):
    claim(database, runs.this_driver("a"))
    with database.transaction() as session:
        assert runs.renew(session, "run-1", step=0, attempts=1) is RunStatus.STARTING
        assert runs.renew(session, "run-1", step=4, attempts=1) is RunStatus.RUNNING
    with database.snapshot() as session:
        row = runs.as_dict(runs.require(session, "run-1"), utc_now())
    assert (row["status"], row["step"], row["total_steps"], row["attempts"]) == ("running", 4, 8, 1)


def test_a_driver_that_dies_while_cancelling_leaves_a_cancelled_run(database):
    claim(database, dead_driver())
    with database.transaction() as session:
        runs.set_status(session, runs.require(session, "run-1"), RunStatus.CANCELLING, "cancelled by ada")
    assert status_of(database) == (RunStatus.CANCELLED, "cancelled by ada")


def test_an_ended_run_keeps_its_status_whatever_becomes_of_the_driver(database):
    claim(database, dead_driver())
    with database.transaction() as session:
        runs.set_status(session, runs.require(session, "run-1"), RunStatus.FINISHED, "completed")
    assert status_of(database) == (RunStatus.FINISHED, "completed")


def test_an_unknown_run_gets_the_nearest_name(database):
    claim(database, runs.this_driver("a"))
    with database.snapshot() as session, pytest.raises(NotFoundError, match="run-1"):
        runs.require(session, "run-2")
