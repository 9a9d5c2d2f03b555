from datetime import timedelta

import pytest

from cluster.state import deliveries
from cluster.state.database import open_database
from cluster.state.deliveries import Progress
from cluster.state.tables import utc_now


@pytest.fixture
def database(tmp_path):
    database = open_database(f"sqlite:///{tmp_path}/linnet.db")
    yield database
    database.dispose()


def progress(receiver="a", rollout=1, **given) -> Progress:
    return Progress(receiver=receiver, rollout=rollout, **given)


def put(database, *found: Progress) -> None:
    with database.transaction() as session:
        for one in found:
            deliveries.put(session, one)


def get(database, receiver="a", rollout=1) -> Progress:
    with database.snapshot() as session:
        return deliveries.get(session, receiver, rollout)


def test_a_receiver_that_was_told_nothing_is_at_the_beginning(database):
    assert get(database) == progress()


def test_what_is_stored_last_counts_all_of_it(database):
    put(database, progress(settled=3, tries=2, not_before=utc_now(), last_error="full"))
    last = progress(
        settled=4, tries=1, not_before=utc_now() + timedelta(seconds=1), given_up=1, last_error="gone"
    )
    put(database, last)
    assert get(database) == last


def test_receivers_and_rollouts_have_each_their_own(database):
    put(database, progress(settled=1), progress("b", settled=2), progress(rollout=2, settled=3))
    assert [get(database).settled, get(database, "b").settled, get(database, "a", 2).settled] == [1, 2, 3]
