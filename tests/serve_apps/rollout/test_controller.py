from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.errors import ConflictError
from cluster.state import looks
from cluster.state.tables import DecisionRow, RolloutRow
from serve_apps.rollout.refolding import redo, replay
from serve_apps.rollout.service import Rollouts
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.rollout.states import Approve, Pause, Phase, Reason, Resume, Rollback
from tests.serve_apps.rollout import world
from tests.serve_apps.rollout.judged_world import QUICK, World
from tests.serve_apps.rollout.world import MODEL


@pytest.fixture
def judged(store):
    return World(store)


def decisions(store, rollout):
    with store.database.snapshot() as session:
        rows = session.query(DecisionRow).filter_by(rollout_id=rollout).order_by(DecisionRow.seq)
        return [(row.command, row.outcome["policy"]["weight"]) for row in rows]


def test_a_candidate_as_good_as_stable_goes_all_the_way_by_itself(store, judged):
    rollout = judged.begin().rollout_id
    state = judged.run(judged.controller(), rollout)
    assert (state.phase, state.reason) == (Phase.PROMOTED, Reason.PROMOTED)
    assert decisions(store, rollout) == [
        ("begin", 0.0),
        ("advance", 5.0),
        ("advance", 50.0),
        ("advance", 100.0),
        ("promote", 0.0),
    ]
    assert store.aliases(MODEL) == {"stable": "v2", "previous": "v1"}
    assert judged.policy.judging is None


@pytest.mark.parametrize(
    ("what", "gate"), [("errors", "error_rate max_ratio"), ("ttft", "ttft p50 max_ratio")]
)
def test_a_worse_candidate_is_taken_back_with_the_gate_named(store, judged, what, gate):
    getattr(judged, what)["v2"] = 0.3
    rollout = judged.begin().rollout_id
    state = judged.run(judged.controller(), rollout)
    assert (state.phase, state.reason, state.weight) == (Phase.ROLLED_BACK, Reason.GATE_FAILED, 0.0)
    assert judged.policy.weights() == {"v1": 100.0}
    assert judged.asked["v2"] < 300
    with store.database.snapshot() as session:
        last = looks.newest(session, rollout)
    assert last.outcome["conclusion"]["gate"] == gate
    assert f"{gate} failed" in last.outcome["conclusion"]["why"]


def test_a_soak_that_is_longer_than_the_deadline_ends_with_the_promotion(store, judged):
    spec = RolloutSpec.model_validate(
        {
            **QUICK.stored(),
            "steps": [{"weight": 50}, {"weight": 100, "soak": "3m"}],
            "deadline": "1m",
            "on_inconclusive": "rollback",
        }
    )
    rollout = judged.begin(spec).rollout_id
    began = judged.clock()
    assert judged.run(judged.controller(), rollout).phase is Phase.PROMOTED
    assert (judged.clock() - began).total_seconds() > 180


def test_without_traffic_nothing_moves(store, judged):
    rollout = judged.begin().rollout_id
    controller = judged.controller()
    judged.per_second = 0
    state = judged.run(controller, rollout)
    assert (state.phase, state.weight) == (Phase.PROGRESSING, 5.0)
    with store.database.snapshot() as session:
        assert len(looks.of_rollout(session, rollout)) < 40
        assert "nothing of the candidate" in looks.newest(session, rollout).outcome["conclusion"]["why"]


def test_without_gates_too_a_step_takes_an_answer(store, judged):
    spec = RolloutSpec.model_validate({**QUICK.stored(), "gates": []})
    rollout, controller = judged.begin(spec).rollout_id, judged.controller()
    judged.per_second = 0
    judged.run(controller, rollout, 60)
    assert (judged.state(rollout).phase, judged.policy.weight) == (Phase.PROGRESSING, 5.0)
    judged.per_second = 100
    assert judged.run(controller, rollout, 60).phase is Phase.PROMOTED


def test_without_traffic_at_the_end_nothing_is_promoted(store, judged):
    rollout, controller = judged.begin().rollout_id, judged.controller()
    while judged.policy.weight < 100:
        judged.serve()
        controller.tick()
    judged.per_second = 0
    judged.run(controller, rollout, 60)
    assert (judged.state(rollout).phase, judged.policy.weight) == (Phase.PROGRESSING, 100.0)
    judged.per_second = 100
    assert judged.run(controller, rollout, 60).phase is Phase.PROMOTED


def test_every_stored_look_and_decision_is_reproduced(store, judged):
    judged.errors["v2"] = 0.2
    rollout = judged.begin().rollout_id
    judged.run(judged.controller(), rollout)
    with store.database.snapshot() as session:
        rows = looks.of_rollout(session, rollout)
    redone = list(redo(QUICK, rows))
    assert len(redone) > 3
    assert all(one.agrees for one in redone)
    explained = Rollouts(store).explain(rows[-1].decision_id)
    assert explained.agrees
    assert explained.looks == len(rows)


def test_another_policy_is_replayed_on_the_same_answers(store, judged):
    judged.errors["v2"] = 0.1
    rollout = judged.begin().rollout_id
    judged.run(judged.controller(), rollout)
    with store.database.snapshot() as session:
        rows = looks.of_rollout(session, rollout)
    lenient = RolloutSpec.model_validate(
        {**QUICK.stored(), "gates": [{"metric": "error_rate", "max": "50%", "min_samples": 20}]}
    )
    assert [one.outcome.conclusion.action for one in replay(QUICK, rows)][-1] == "roll_back"
    assert "roll_back" not in [one.outcome.conclusion.action for one in replay(lenient, rows)]


def test_two_controllers_cannot_both_act(store, judged):
    rollout = judged.begin().rollout_id
    older = judged.controller()
    newer = judged.controller()
    assert newer.epoch == older.epoch + 1
    with pytest.raises(ConflictError) as caught:
        older.tick()
    assert caught.value.code == "controller.superseded"
    assert judged.run(newer, rollout).phase is Phase.PROMOTED


def test_one_that_cannot_be_read_holds_up_no_other_and_is_told_once(store, judged, caplog):
    with store.database.transaction() as session:
        session.add(
            RolloutRow(
                model="other",
                candidate="b",
                stable="a",
                phase="progressing",
                reason="started",
                weight=0.0,
                spec={"of": "another release"},
                spec_sha256="0" * 64,
            )
        )
    rollout = judged.begin().rollout_id
    assert judged.run(judged.controller(), rollout).phase is Phase.PROMOTED
    assert [record.getMessage() for record in caplog.records if record.exc_info] == [
        "rollout 1 cannot be looked at"
    ]


def test_a_person_pauses_resumes_and_approves(store, judged):
    spec = RolloutSpec.model_validate(
        {**QUICK.stored(), "steps": [{"weight": 5}, {"approve": True}, {"weight": 100}]}
    )
    rollout, controller, hand = judged.begin(spec).rollout_id, judged.controller(), Rollouts(store)
    judged.run(controller, rollout, 3)
    hand.run(Pause(model=MODEL))
    judged.run(controller, rollout, 60)
    assert judged.state(rollout).phase is Phase.PAUSED
    assert judged.policy.weight == 5.0
    hand.run(Resume(model=MODEL))
    state = judged.run(controller, rollout, 60)
    assert (state.phase, state.step) == (Phase.PROGRESSING, 1)
    hand.run(Approve(model=MODEL))
    assert judged.run(controller, rollout, 60).phase is Phase.PROMOTED


def test_a_paused_rollout_is_taken_back_all_the_same(store, judged):
    rollout, controller = judged.begin().rollout_id, judged.controller()
    judged.run(controller, rollout, 3)
    Rollouts(store).run(Pause(model=MODEL))
    judged.errors["v2"] = 0.9
    for _ in range(200):
        judged.serve()
        controller.tick()
    assert judged.state(rollout).phase is Phase.ROLLED_BACK


def test_one_that_a_gate_has_paused_is_looked_at_further(store, judged):
    spec = RolloutSpec.model_validate({**QUICK.stored(), "on_fail": "pause"})
    judged.errors["v2"] = 0.3
    rollout, controller = judged.begin(spec).rollout_id, judged.controller()
    assert judged.run(controller, rollout).reason is Reason.GATE_FAILED
    before = judged.facts(rollout).seq
    for _ in range(5):
        judged.serve()
        controller.tick()
    assert judged.state(rollout).phase is Phase.PAUSED
    assert judged.facts(rollout).seq == before + 5


def test_one_that_a_gate_has_paused_goes_on_when_it_is_resumed_and_the_fault_is_gone(store, judged):
    spec = RolloutSpec.model_validate({**QUICK.stored(), "on_fail": "pause"})
    judged.errors["v2"] = 0.3
    rollout, controller, hand = judged.begin(spec).rollout_id, judged.controller(), Rollouts(store)
    assert judged.run(controller, rollout).reason is Reason.GATE_FAILED
    hand.run(Resume(model=MODEL))
    # The fault is still there.
    assert judged.run(controller, rollout).reason is Reason.GATE_FAILED
    judged.errors["v2"] = 0.0
    judged.serve()
    controller.tick()
    hand.run(Resume(model=MODEL))
    assert judged.run(controller, rollout).phase is Phase.PROMOTED
    with store.database.snapshot() as session:
        rows = looks.of_rollout(session, rollout)
    assert all(one.agrees for one in redo(spec, rows))


def test_one_that_has_failed_is_taken_back_once_stable_answers_again(store, judged):
    judged.errors["v2"] = 0.3
    rollout, controller = judged.begin().rollout_id, judged.controller()
    world.drop_replica(store, "v1")
    judged.run(controller, rollout, 15)
    with store.database.snapshot() as session:
        last = looks.newest(session, rollout)
    assert "no replica of stable serves to go back to" in last.outcome["conclusion"]["why"]
    assert judged.state(rollout).phase is Phase.PROGRESSING
    world.set_replica(store, "v1")
    assert judged.run(controller, rollout, 5).reason is Reason.GATE_FAILED


def test_a_refused_replica_moves_no_traffic_to_a_stable_that_is_gone(store, judged):
    rollout, controller = judged.begin().rollout_id, judged.controller()
    while judged.policy.weight < 100:
        judged.serve()
        controller.tick()
    world.drop_replica(store, "v1")
    world.refuse_replica(store, "v2", "v2#9")
    judged.run(controller, rollout, 5)
    assert (judged.state(rollout).phase, judged.policy.weight) == (Phase.PROGRESSING, 100.0)
    world.drop_replica(store, "v2")
    judged.run(controller, rollout, 5)
    assert (judged.state(rollout).reason, judged.policy.weights()) == (Reason.CANDIDATE_DOWN, {"v1": 100.0})


def test_a_newer_rollout_replaces_the_one_that_runs(store, judged):
    first, controller = judged.begin().rollout_id, judged.controller()
    judged.run(controller, first, 3)
    assert judged.policy.weight == 5.0
    second = judged.begin(QUICK.model_copy(update={"candidate": "v3"}), replace=True).rollout_id
    assert judged.state(first).reason is Reason.SUPERSEDED
    assert judged.policy.weights() == {"v1": 100.0, "v3": 0.0}
    assert judged.run(controller, second).phase is Phase.PROMOTED


def test_a_candidate_without_a_replica_waits_and_is_given_up_in_the_end(store, judged):
    world.drop_replica(store, "v2")
    rollout, controller = judged.begin().rollout_id, judged.controller()
    state = judged.run(controller, rollout, 30)
    assert state.phase is Phase.PENDING
    assert judged.policy.weights() == {"v1": 100.0, "v2": 0.0}
    judged.clock.pass_(30)
    for _ in range(40):
        judged.serve(30)
        controller.tick()
    assert judged.state(rollout).reason is Reason.CANDIDATE_DOWN


def test_a_rollback_by_hand_ends_it_between_two_looks(store, judged):
    rollout, controller = judged.begin().rollout_id, judged.controller()
    judged.run(controller, rollout, 3)
    Rollouts(store).run(Rollback(model=MODEL), reason="I do not like it")
    for _ in range(30):
        judged.serve()
        controller.tick()
    state = judged.state(rollout)
    assert (state.phase, state.reason) == (Phase.ROLLED_BACK, Reason.ABORTED)
    assert judged.policy.weights() == {"v1": 100.0}


def test_another_wording_is_no_other_decision_and_another_number_is(store, judged):
    rollout = judged.begin().rollout_id
    judged.run(judged.controller(), rollout, 5)
    with store.database.snapshot() as session:
        *_, last = redo(QUICK, looks.of_rollout(session, rollout))
    conclusion = last.stored.conclusion.model_copy(update={"why": "in other words"})
    assert replace(last, stored=last.stored.model_copy(update={"conclusion": conclusion})).agrees
    [name, *_] = last.stored.findings
    found = last.stored.findings[name].model_copy(update={"log_e_worse": 1e-9})
    other = last.stored.model_copy(update={"findings": {**last.stored.findings, name: found}})
    assert not replace(last, stored=other).agrees
