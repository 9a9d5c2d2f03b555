from __future__ import annotations

import pytest

from cluster.state import looks
from cluster.state.tables import RolloutRow
from serve_apps.rollout import records
from serve_apps.rollout.conclusion import Action
from serve_apps.rollout.replaying import compare
from serve_apps.rollout.service import Rollouts
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.rollout.states import Rollback
from tests.serve_apps.rollout.judged_world import QUICK
from tests.serve_apps.rollout.world import MODEL


def other(**changed) -> RolloutSpec:
    return RolloutSpec.model_validate({**QUICK.stored(), **changed})


def gates(**changed) -> list:
    errors, ttft = QUICK.stored()["gates"]
    return [{**errors, **changed}, ttft]


@pytest.fixture
def replayed(store):
    def call(rollout: int, spec: RolloutSpec):
        with store.database.snapshot() as session:
            row = session.get(RolloutRow, rollout)
            return compare(row, looks.of_rollout(session, rollout), records.spec_of(row), spec)

    return call


@pytest.fixture
def failed(judged) -> int:
    judged.errors.update(v1=0.02, v2=0.2)
    rollout = judged.begin().rollout_id
    judged.run(judged.controller(), rollout)
    return rollout


def test_the_same_policy_does_the_same(judged, replayed, failed):
    found = replayed(failed, QUICK)
    assert found.other == found.happened
    assert found.other.turns[-1].answers <= judged.asked["v2"]
    assert found.sentence.endswith("as this one did.")


def test_a_stricter_policy_would_have_taken_it_back_earlier(replayed, failed):
    found = replayed(failed, other(alpha=0.3, gates=gates(min_samples=5, tolerate="1%")))
    then, now = found.happened.turns[-1], found.other.turns[-1]
    assert (now.action, now.gate) == (Action.ROLL_BACK, "error_rate max_ratio")
    assert now.answers < then.answers
    assert f"{then.answers - now.answers} answers and" in found.sentence
    assert "earlier" in found.sentence


def test_a_laxer_policy_goes_on_and_says_what_it_would_wait_for(replayed, failed):
    found = replayed(failed, other(gates=gates(max_ratio=50)))
    assert not found.other.over or found.other.turns[-1].action is Action.PROMOTE
    assert "failed" not in found.other.stands
    assert "would not have ended it" in found.sentence or "promoted" in found.sentence


def test_an_end_by_a_person_is_told_as_one(store, judged, replayed):
    rollout = judged.begin().rollout_id
    controller = judged.controller()
    controller.tick()
    judged.serve()
    controller.tick()
    Rollouts(store).run(Rollback(model=MODEL))
    found = replayed(rollout, QUICK)
    assert found.happened.stands == "rolled_back by a person (aborted)"


def test_what_cannot_be_known_is_noted(replayed, failed):
    webhook = {"webhook": {"url": "https://checks.example.com"}}
    spec = other(gates=[*gates(), webhook], texts={"banned": ["foo"]}, match=[{"key_prefix": "beta-"}])
    notes = " ".join(replayed(failed, spec).notes)
    assert "webhook https://checks.example.com was not asked then" in notes
    assert "the checks of then" in notes
    assert "the `match` of then" in notes
    assert len(replayed(failed, QUICK).notes) == 1
    replicas_ = [{"metric": "restarts", "max": 1}, {"metric": "memory", "max": "12 GiB"}]
    assert len(replayed(failed, other(gates=[*gates(), *replicas_])).notes) == 1, "each look has them"
