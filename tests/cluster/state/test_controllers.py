from __future__ import annotations

import threading

import pytest

from cluster.errors import ConflictError
from cluster.state import controllers
from cluster.state.database import Database, open_database


@pytest.fixture
def database(tmp_path):
    database = open_database(f"sqlite:///{tmp_path}/linnet.db")
    yield database
    database.dispose()


def take(database, holder, name="rollouts"):
    with database.transaction() as session:
        return controllers.take(session, name, holder)


def require(database, epoch, name="rollouts"):
    with database.transaction() as session:
        controllers.require(session, name, epoch)


def test_each_that_takes_over_has_the_next_epoch(database):
    assert [take(database, holder) for holder in ("a", "b", "a")] == [1, 2, 3]
    with database.snapshot() as session:
        assert controllers.current(session, "rollouts").holder == "a"


def test_only_the_newest_may_act(database):
    first, second = take(database, "a"), take(database, "b")
    require(database, second)
    with pytest.raises(ConflictError) as caught:
        require(database, first)
    assert caught.value.code == "controller.superseded"
    assert "`b` acts as `rollouts` now, with epoch 2; this one had 1" in caught.value.message


def test_names_know_nothing_of_each_other(database):
    take(database, "a")
    assert take(database, "b", "other") == 1
    require(database, 1)


def test_nobody_acts_who_has_taken_nothing(database):
    with database.snapshot() as session:
        assert controllers.current(session, "rollouts") is None
    with pytest.raises(ConflictError, match="`nobody` acts"):
        require(database, 1)


def test_one_that_did_not_commit_has_taken_nothing(database):
    def fail():
        with database.transaction() as session:
            controllers.take(session, "rollouts", "b")
            raise KeyboardInterrupt

    epoch = take(database, "a")
    with pytest.raises(KeyboardInterrupt):
        fail()
    require(database, epoch)


def test_of_many_at_once_each_has_an_epoch_of_its_own(database):
    barrier, epochs = threading.Barrier(5), []

    def race(holder):
        own = Database(database.url)
        barrier.wait(timeout=60)
        epochs.append(take(own, holder))
        own.dispose()

    threads = [threading.Thread(target=race, args=(str(number),)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(epochs) == [1, 2, 3, 4, 5]
