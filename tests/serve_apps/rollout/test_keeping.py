from __future__ import annotations

from datetime import timedelta

from cluster.state.replicas import ReplicaStatus, report
from cluster.state.tables import utc_now
from serve_apps.rollout.keeping import is_kept, needed
from tests.serve_apps.rollout.judged_world import World
from tests.serve_apps.rollout.world import MODEL


def kept(store, version, later=timedelta(0)):
    with store.database.snapshot() as session:
        return is_kept(session, MODEL, version, utc_now() + later)


def replicas_needed(store, version, later=timedelta(0)):
    with store.database.snapshot() as session:
        return needed(session, MODEL, version, utc_now() + later)


def test_both_are_kept_while_a_rollout_runs_and_the_old_one_for_a_while_after_it(store):
    judged = World(store)
    assert not kept(store, "v1")
    rollout = judged.begin().rollout_id
    assert kept(store, "v1")
    assert kept(store, "v2")
    assert not kept(store, "v3")
    assert judged.run(judged.controller(), rollout).phase == "promoted"
    assert kept(store, "v1")
    assert not kept(store, "v2")
    assert not kept(store, "v1", later=timedelta(hours=2))


def test_stable_grows_with_what_has_its_traffic(store):
    judged = World(store)
    assert replicas_needed(store, "v1") == 0
    rollout, controller = judged.begin().rollout_id, judged.controller()
    while (state := judged.state(rollout)).weight < 50:
        assert replicas_needed(store, "v1") == 0, "most of the load is its own, by which it grows"
        judged.run(controller, rollout, seconds=1)
    assert state.weight == 50
    assert replicas_needed(store, "v1") == 1
    assert judged.run(controller, rollout).phase == "promoted"
    with store.database.transaction() as session:
        for more in range(3):
            status = ReplicaStatus.SERVING
            report(session, replica=f"more-{more}", model=MODEL, version="v2", status=status)
    assert replicas_needed(store, "v1") == 4
    assert replicas_needed(store, "v2") == 0, "it grows by its own load"
    assert replicas_needed(store, "v1", later=timedelta(hours=2)) == 0
