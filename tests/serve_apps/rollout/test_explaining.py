from __future__ import annotations

import math

import pytest

from cluster.errors import NotFoundError
from cluster.state.tables import DecisionRow, LookRow
from serve_apps.rollout import explained_words
from serve_apps.rollout.explaining import explain_rollout
from serve_apps.rollout.service import Rollouts
from serve_apps.rollout.states import Pause, Resume, Start
from tests.serve_apps.rollout.world import MODEL


@pytest.fixture
def failed(judged) -> int:
    judged.errors.update(v1=0.02, v2=0.4)
    rollout = judged.begin().rollout_id
    judged.run(judged.controller(), rollout)
    return rollout


def explain(store, rollout):
    with store.database.snapshot() as session:
        return explain_rollout(session, rollout)


def test_each_decision_has_the_numbers_that_were_compared(store, judged, failed):
    explained = explain(store, failed)
    assert explained.agrees
    assert [decision.command for decision in explained.decisions] == ["begin", "advance", "rollback"]
    assert [decision.look is None for decision in explained.decisions] == [True, False, False]
    errors, ttft = explained.decisions[-1].gates
    bad, _, n = errors.candidate.partition(" of ")
    assert int(n) <= judged.asked["v2"]
    assert 0 < int(bad) < int(n)
    assert errors.log_worse_at == pytest.approx(math.log(40))
    assert errors.log_e_worse >= errors.log_worse_at
    assert errors.against == f"e = {math.exp(errors.log_e_worse):.3g} against 1/alpha = 40: reached"
    assert ttft.against.endswith("against 1/alpha = 40: not yet")
    assert ttft.baseline.endswith(f" of {ttft.baseline.split()[-1]}")


def test_it_says_how_far_errors_come_in_clusters_by_caller(store, judged, capsys):
    judged.errors.update(v1=0.02, v2=0.4)
    judged.of_one_caller = 5
    rollout = judged.begin().rollout_id
    judged.run(judged.controller(), rollout)
    explained = explain(store, rollout)
    errors, ttft = explained.decisions[-1].gates
    assert explained.agrees
    assert errors.clusters.startswith("bad answers come in clusters by caller, so ")
    assert not ttft.clusters
    explained_words.show(explained)
    assert errors.clusters in capsys.readouterr().out


def test_a_persons_decisions_are_explained_beside_the_looks(store, judged):
    rollout = judged.begin().rollout_id
    controller = judged.controller()
    controller.tick()
    for command in (Pause(model=MODEL), Resume(model=MODEL)):
        Rollouts(store).run(command, reason="lunch", actor="ada")
    explained = explain(store, rollout)
    assert explained.agrees
    assert [(one.command, one.actor, one.reason) for one in explained.decisions[2:]] == [
        ("pause", "ada", "lunch"),
        ("resume", "ada", "lunch"),
    ]


def test_a_rollout_by_hand_has_decisions_without_gates(store):
    applied = Rollouts(store).run(Start(model=MODEL, candidate="v2", weight=10))
    explained = explain(store, applied.rollout_id)
    assert explained.agrees
    assert [(one.command, one.gates) for one in explained.decisions] == [("start", ())]


def test_a_look_that_was_tampered_with_is_named(store, failed):
    with store.database.transaction() as session:
        look = session.get(LookRow, (failed, 2))
        [counted] = look.inputs["counted"]
        counts = {**counted["candidate"]["counts"], "errors": 0}
        candidate = {**counted["candidate"], "counts": counts}
        look.inputs = {**look.inputs, "counted": [{**counted, "candidate": candidate}]}
    explained = explain(store, failed)
    assert not explained.agrees
    assert explained.differing[0] == 2
    assert explained_words.difference(explained).startswith("look 2")


def test_a_decision_that_was_tampered_with_is_named(store, failed):
    with store.database.transaction() as session:
        row = session.query(DecisionRow).filter_by(rollout_id=failed, command="advance").one()
        row.outcome = {**row.outcome, "sentence": "nothing"}
        number = row.id
    explained = explain(store, failed)
    assert explained_words.difference(explained) == f"decision {number}"


def test_an_unknown_one_names_those_that_are_there(store, failed):
    with pytest.raises(NotFoundError) as caught:
        explain(store, 9)
    assert "The last ones: 1;" in caught.value.hint
