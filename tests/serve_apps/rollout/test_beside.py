"""`baseline: fresh`: what gateways are told, how many replicas it needs, what is said where none serves."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cluster.state import replicas
from cluster.state.replicas import ReplicaStatus
from cluster.state.tables import RolloutRow, utc_now
from serve_apps.rollout import beside, declared
from serve_apps.rollout.beside import MOST
from serve_apps.rollout.service import Rollouts
from serve_apps.rollout.spec import Baseline
from tests.serve_apps.rollout import world
from tests.serve_apps.rollout.judged_world import QUICK, World
from tests.serve_apps.rollout.world import MODEL

FRESH = QUICK.model_copy(update={"baseline": Baseline.FRESH})


def needed(store, version="v1"):
    with store.database.snapshot() as session:
        return beside.needed(session, MODEL, version)


def begun(store, spec=FRESH):
    judged = World(store)
    return judged, judged.begin(spec).rollout_id


def reserved(store, version="v1"):
    with store.database.snapshot() as session:
        return beside.reserved(session, MODEL, version)


def state(store, rollout):
    with store.database.snapshot() as session:
        row = session.get(RolloutRow, rollout)
        asked = beside.asked(session, row)
        return (asked, beside.read(session, row, asked)) if asked else (None, None)


def test_where_all_of_stable_is_the_baseline_nothing_is_asked_for(store):
    _, rollout = begun(store, QUICK)
    assert state(store, rollout) == (None, None)
    assert needed(store) == 0
    assert reserved(store) == set()


def test_one_more_than_at_the_beginning_is_needed_or_as_many_as_the_candidate_has(store):
    world.serve_for_long(store, "v1", "v1#2")
    begun(store)
    assert needed(store) == 3
    world.serve_for_long(store, "v2", "v2#2")
    assert needed(store) == 4
    assert needed(store, "v2") == needed(store, "v3") == 0


def test_none_is_needed_any_more_from_half_of_the_traffic_on_and_once_it_is_over(store):
    judged, rollout = begun(store)
    world.serve_for_long(store, "v1", "v1#2")
    controller = judged.controller()
    seen = []
    for _ in range(600):
        controller.tick()
        now = judged.state(rollout)
        seen.append((now.weight, needed(store)))
        if now.phase == "promoted":
            break
        judged.serve()
    assert now.phase == "promoted"
    assert set(seen) == {(5, 2), (50, 0), (100, 0)}


def test_a_replica_that_started_since_is_fresh_and_gateways_are_told_since_when(store):
    judged, rollout = begun(store)
    asked, (found, why) = state(store, rollout)
    assert asked.others == 1
    assert asked.since <= utc_now()
    assert (found, why) == (0, "none of v1 has been started yet")
    judged.controller().tick()
    assert judged.policy.judging.fresh == asked
    world.serve_for_long(store, "v1", "v1#2")
    assert state(store, rollout)[1] == (1, "")


def test_the_step_holds_until_a_fresh_replica_serves(store):
    judged, rollout = begun(store)
    controller = judged.controller()
    for _ in range(120):
        controller.tick()
        judged.serve()
    assert judged.state(rollout).weight == 5
    assert judged.facts(rollout).signals.no_fresh == "none of v1 has been started yet"
    world.serve_for_long(store, "v1", "v1#2")
    assert judged.run(controller, rollout).phase == "promoted"


@pytest.mark.parametrize(("slower", "phase"), [("v1", "promoted"), ("v2", "rolled_back")])
def test_the_candidate_is_compared_with_the_fresh_ones_alone(store, slower, phase):
    """Stable's busy replicas answer in half of the time, which says nothing of the candidate."""
    judged, rollout = begun(store)
    world.serve_for_long(store, "v1", "v1#2")
    judged.ttft = {"v1": 0.1, "fresh:v1": 0.2, "v2": 0.2 if slower == "v1" else 0.5}
    assert judged.run(judged.controller(), rollout).phase == phase


def detailed(store, version, detail, status=ReplicaStatus.SERVING, base=None):
    with store.database.transaction() as session:
        replicas.report(
            session,
            replica=f"{version}#1",
            model=MODEL,
            version=version,
            status=status,
            detail=detail,
            base=base,
        )


@pytest.mark.parametrize(
    ("most", "reason"),
    [
        (
            None,
            "v1 has a fixed number of replicas, 1: give it an `autoscaling_config` with `max_replicas: 2`",
        ),
        (1, "v1 has 1 of at most 1 replicas: raise `max_replicas` to 2"),
        (2, ""),
    ],
)
def test_what_keeps_one_from_coming_is_known_beforehand(store, most, reason):
    detailed(store, "v1", {MOST: most})
    with store.database.snapshot() as session:
        assert beside.beforehand(session, MODEL, "v1").startswith(reason)
    _, rollout = begun(store)
    assert state(store, rollout)[1][1].startswith(reason or "none of v1 has been started yet")


def test_nothing_is_said_of_replicas_that_do_not_tell(store):
    with store.database.snapshot() as session:
        assert beside.beforehand(session, MODEL, "v1") == ""


def test_one_on_the_way_is_told(store):
    detailed(store, "v1", {MOST: 3})
    _, rollout = begun(store)
    with store.database.transaction() as session:
        replicas.report(
            session, replica="v1#2", model=MODEL, version="v1", status=ReplicaStatus.LOADING, detail={}
        )
    assert state(store, rollout)[1] == (0, "1 of v1 on the way")


def test_an_adapter_has_no_replicas_of_its_own(store):
    world.drop_replica(store, "v1")
    with store.database.transaction() as session:
        for name in ("v0#1", "v0#2"):
            replicas.report(
                session,
                replica=name,
                model=MODEL,
                version="v1",
                base="v0",
                status=ReplicaStatus.SERVING,
                detail={},
            )
    world.outlast_the_test(store)
    _, rollout = begun(store)
    found, why = state(store, rollout)[1]
    assert found == 0
    assert why.startswith("v1 is an adapter")


def test_who_starts_it_is_told_beforehand(store, linnet, tmp_path):
    detailed(store, "v1", {MOST: None})
    policy = tmp_path / "canary.yaml"
    policy.write_text("steps: [{weight: 5}, {weight: 100}]\nbaseline: fresh\n")
    _, printed = linnet("start", f"{MODEL}:v2", "--policy", policy, "--dry-run")
    assert "compared with fresh replicas of stable" in printed.out + printed.err
    assert "mind: no fresh replica of stable will serve: v1 has a fixed number" in " ".join(
        (printed.out + printed.err).split()
    )
    _, printed = linnet("plan", f"{MODEL}:v2", "--policy", policy)
    assert "Steps below 50% would hold" in " ".join((printed.out + printed.err).split())


def test_a_replica_from_before_is_not_fresh(store):
    world.serve_for_long(store, "v1", "v1#2")
    with store.database.transaction() as session:
        for name in ("v1#1", "v1#2"):
            session.get(world.ReplicaRow, (name, "v1")).started_at = utc_now() - timedelta(hours=1)
    _, rollout = begun(store)
    assert state(store, rollout)[1][0] == 0


def put(store, replica, *, seen_s_ago=0.0, started_s_ago=3600.0, status=ReplicaStatus.SERVING, most=2):
    """A row of v1 as it is so long after its replica's last word."""
    with store.database.transaction() as session:
        replicas.report(
            session, replica=replica, model=MODEL, version="v1", status=status, detail={MOST: most}
        )
        row = session.get(world.ReplicaRow, (replica, "v1"))
        row.seen_at = utc_now() - timedelta(seconds=seen_s_ago)
        row.started_at = utc_now() - timedelta(seconds=started_s_ago)


def begun_as_it_is(store, spec=FRESH):
    rollouts = Rollouts(store)
    return rollouts.apply(rollouts.plan_begin(MODEL, spec.candidate, spec)).rollout_id


@pytest.mark.parametrize("told", [True, False], ids=["a gateway missed it", "nobody did"])
def test_one_that_was_killed_before_it_began_is_none_of_those_that_there_were(store, told):
    world.outlast_the_test(store)
    put(store, "v1#1", seen_s_ago=20 if told else 30)
    if told:
        world.miss_replica(store, "v1", "v1#1")
    put(store, "v1#2", started_s_ago=10)
    with store.database.snapshot() as session:
        assert beside.beforehand(session, MODEL, "v1") == ""
    rollout = begun_as_it_is(store)
    asked, found = state(store, rollout)
    assert (asked.others, found) == (1, (0, "none of v1 has been started yet"))
    assert needed(store) == 2


def test_one_that_was_on_its_way_when_it_began_is_no_fresh_one_and_another_is_needed(store):
    world.outlast_the_test(store)
    put(store, "v1#1")
    put(store, "v1#2", started_s_ago=30, seen_s_ago=30, status=ReplicaStatus.LOADING)
    rollout = begun_as_it_is(store)
    assert needed(store) == 3
    full = "v1 has 2 of at most 2 replicas: raise `max_replicas` to 3"
    assert state(store, rollout)[1] == (0, full)
    put(store, "v1#2", started_s_ago=30)
    assert (needed(store), state(store, rollout)[1]) == (3, (0, full))
    put(store, "v1#3", started_s_ago=0, most=3)
    assert (needed(store), state(store, rollout)[1]) == (3, (1, ""))
    assert reserved(store) == {"v1#3"}
    assert reserved(store, "v2") == set()


def test_those_of_before_may_be_fewer_by_now_and_are_needed_all_the_same(store):
    world.outlast_the_test(store)
    put(store, "v1#1")
    put(store, "v1#2")
    begun_as_it_is(store)
    with store.database.transaction() as session:
        replicas.forget(session, "v1#2")
    assert needed(store) == 3


def test_a_declared_rollout_that_will_hold_is_begun_and_says_so(store, caplog):
    detailed(store, "v1", {MOST: 1})
    assert declared.begin(store, MODEL, FRESH) is not None
    assert "will hold: no fresh replica of stable will serve: v1 has 1 of at most 1 replicas" in caplog.text
