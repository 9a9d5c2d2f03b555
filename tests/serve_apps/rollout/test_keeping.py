from __future__ import annotations

from datetime import timedelta

from cluster.state.tables import utc_now
from serve_apps.rollout.keeping import is_kept
from tests.serve_apps.rollout.judged_world import World
from tests.serve_apps.rollout.world import MODEL


def kept(store, version, later=timedelta(0)):
    with store.database.snapshot() as session:
        return is_kept(session, MODEL, version, utc_now() + later)


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
