from __future__ import annotations

from datetime import timedelta

import pytest

from cluster.state import losses, replicas
from cluster.state.database import open_database
from cluster.state.losses import Loss, Signal
from cluster.state.replicas import LEASE, ReplicaStatus
from cluster.state.tables import ReplicaRow, utc_now
from serve_apps.rollout.outside.replicas import memory, read


@pytest.fixture
def session(tmp_path):
    database = open_database(f"sqlite:///{tmp_path}/linnet.db")
    with database.transaction() as session:
        yield session
    database.dispose()


def hour_ago():
    return utc_now() - timedelta(hours=1)


def replica(session, name, version="v3", status=ReplicaStatus.SERVING, base=None):
    replicas.report(session, replica=name, model="m", version=version, status=status, base=base)
    return session.get(ReplicaRow, (name, version))


def lose(session, name, version="v3", minutes_ago=5.0):
    at = utc_now() - timedelta(minutes=minutes_ago)
    times = {"heard_at": at, "detected_at": at, "isolated_at": at}
    losses.add(session, Loss(replica=name, model="m", version=version, signal=Signal.DROPPED, **times))


def counts(session, version="v3"):
    found = read(session, "m", version, hour_ago())
    return found.restarts, found.refused, found.serving


def test_a_version_without_replicas_has_nothing(session):
    assert counts(session) == (0, 0, 0)


def test_losses_of_the_version_since_the_time_are_its_restarts(session):
    for name, version, minutes_ago in (
        ("a", "v3", 5),
        ("b", "v3", 50),
        ("c", "v3", 70),
        ("d", "v2", 5),
    ):
        lose(session, name, version, minutes_ago)
    replica(session, "e")
    assert counts(session) == (2, 0, 1)


def test_a_version_of_which_all_are_gone_has_its_losses(session):
    lose(session, "a")
    assert counts(session) == (1, 0, 0)


def test_a_replica_that_stopped_in_good_order_is_no_restart(session):
    replica(session, "a")
    replicas.forget(session, "a")
    assert counts(session) == (0, 0, 0)


def test_refused_replicas_are_counted_since_the_time(session):
    replica(session, "a", status=ReplicaStatus.REFUSED)
    replica(session, "b", status=ReplicaStatus.REFUSED).seen_at = hour_ago() - timedelta(minutes=1)
    replica(session, "c", version="v2", status=ReplicaStatus.REFUSED)
    assert counts(session) == (0, 1, 0)


def test_only_replicas_that_serve_and_say_so_are_there(session):
    replica(session, "a")
    replica(session, "b", status=ReplicaStatus.LOADING)
    replica(session, "c").seen_at = utc_now() - LEASE - timedelta(seconds=1)
    assert counts(session) == (0, 0, 1)


def test_an_adapter_restarts_with_the_replicas_of_its_base(session):
    replica(session, "a", version="base")
    replica(session, "a", version="tuned", base="base")
    lose(session, "b", version="base")
    assert counts(session, "tuned") == (1, 0, 1)


def hold(session, name, held, version="v3", **changes):
    replica(session, name, version, **changes).detail = {"memory_bytes": held}


def held(session, version="v3"):
    """As both ways of reading say it."""
    found = read(session, "m", version, hour_ago()).memory
    assert found == memory(session, "m", version)
    return found


def test_the_largest_replica_that_serves_says_what_a_version_holds(session):
    hold(session, "a", 5)
    hold(session, "b", 7)
    hold(session, "c", 99, version="v2")
    hold(session, "d", 99, status=ReplicaStatus.LOADING)
    hold(session, "e", 99)
    session.get(ReplicaRow, ("e", "v3")).seen_at = utc_now() - LEASE - timedelta(seconds=1)
    assert held(session) == 7


def test_one_that_has_not_told_might_be_the_largest(session):
    assert held(session) is None
    hold(session, "a", 5)
    replica(session, "b")
    assert held(session) is None
    replica(session, "b").detail = {"memory_bytes": 3}
    assert held(session) == 5
