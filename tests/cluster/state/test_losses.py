from datetime import timedelta

import pytest

from cluster.state import losses, replicas
from cluster.state.database import open_database
from cluster.state.losses import Life, Loss, Signal
from cluster.state.replicas import ReplicaStatus
from cluster.state.tables import ReplicaRow, utc_now


@pytest.fixture
def database(tmp_path):
    database = open_database(f"sqlite:///{tmp_path}/linnet.db")
    yield database
    database.dispose()


def loss(replica="a", version="v1", ago_s=10.0, **more):
    at = utc_now() - timedelta(seconds=ago_s)
    times = {"heard_at": at, "detected_at": at, "isolated_at": at}
    return Loss(replica=replica, model="m", version=version, signal=Signal.REFUSED, **times | more)


def serve(session, replica, version="v1", load_s=2.0, prove_s=0.5):
    replicas.report(
        session,
        replica=replica,
        model="m",
        version=version,
        status=ReplicaStatus.SERVING,
        detail={"proven": 3, "load_s": load_s, "prove_s": prove_s},
    )


def test_a_loss_is_made_good_by_a_replica_of_its_version_that_started_since(database):
    with database.transaction() as session:
        serve(session, "before")
        session.get(ReplicaRow, ("before", "v1")).started_at = utc_now() - timedelta(seconds=60)
        losses.add(session, loss())
        serve(session, "other", version="v2")
        losses.complete(session, losses.waiting(session))
        assert [row.replica for row in losses.waiting(session)] == ["a"]
        serve(session, "new")
        losses.complete(session, losses.waiting(session))
        [row] = losses.everything(session)
        assert (row.replaced_by, row.load_s, row.prove_s) == ("new", 2.0, 0.5)
        assert row.recovered_at == session.get(ReplicaRow, ("new", "v1")).started_at + timedelta(seconds=2.5)
        assert losses.waiting(session) == []


def test_one_replica_makes_good_one_loss_the_oldest_first(database):
    with database.transaction() as session:
        losses.add(session, loss("a", ago_s=5))
        losses.add(session, loss("b", ago_s=9))
        serve(session, "new")
        losses.complete(session, losses.waiting(session))
        losses.complete(session, losses.waiting(session))
        assert [row.replica for row in losses.waiting(session)] == ["a"]


def test_lives_tell_since_when_a_lost_replica_had_served(database):
    with database.transaction() as session:
        serve(session, "a")
        row = session.get(ReplicaRow, ("a", "v1"))
        row.detail = row.detail | {"pause_s": 4.0}
        losses.add(session, loss("a", ago_s=5))
        losses.add(session, loss("unknown", ago_s=3))
        losses.add(session, loss("old", ago_s=90))
        losses.add(session, loss("other", version="v2", ago_s=1))
        found = losses.lives(session, "m", "v1", utc_now() - timedelta(seconds=60))
        lost_at = {one.replica: one.detected_at for one in losses.everything(session)}
        proven_at = row.started_at + timedelta(seconds=6.5)
    assert sorted(found, key=lambda life: life.lost_at) == [
        Life(proven_at, lost_at["a"]),
        Life(None, lost_at["unknown"]),
    ]


def test_what_two_gateways_saw_is_one_loss(database):
    with database.transaction() as session:
        losses.add(session, loss(retried=2, continued=1, ago_s=9))
        losses.add(session, loss(retried=3, failed=1, ago_s=10))
        [row] = losses.everything(session, "m")
        assert (row.retried, row.continued, row.failed) == (5, 1, 1)
        assert row.detected_at < utc_now() - timedelta(seconds=9.5)
        assert losses.everything(session, "other") == []
