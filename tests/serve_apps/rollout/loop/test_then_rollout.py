from __future__ import annotations

import contextlib

import pytest
from sqlalchemy import select

from cluster.errors import (
    ConfigError,
    ConflictError,
    GateFailedError,
    NotFoundError,
    TimedOutError,
    UsageError,
)
from cluster.refs import VersionRef
from cluster.state.tables import DecisionRow, EventRow
from serve_apps.rollout.loop.then_rollout import ThenRollout
from serve_apps.rollout.service import Rollouts
from serve_apps.rollout.states import Promote, Rollback, Start
from tests.serve_apps.rollout import world
from tests.serve_apps.rollout.loop.serving import CONTROLLER, GATEWAY, FakeServe, version_block
from tests.serve_apps.rollout.world import MODEL, Killed

V2 = VersionRef(model=MODEL, version="v2")
POLICY = "steps: [{weight: 5}, {approve: true}, {weight: 100}]\n"


@pytest.fixture
def serve():
    return FakeServe(GATEWAY, version_block("v1"))


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "canary.yaml"
    path.write_text(POLICY)
    return path


@pytest.fixture
def loop(store, serve, policy, tmp_path):
    def make(wait=None):
        return ThenRollout(policy, world.settings_at(tmp_path), wait=wait, serve=serve)

    return make


def carry_out(loop, candidate=V2):
    return loop.carry_out(candidate, run="run-1", say=lambda line: None)


def decisions(store):
    with store.database.snapshot() as session:
        return list(session.scalars(select(DecisionRow).order_by(DecisionRow.id)))


def deployments(store):
    with store.database.snapshot() as session:
        return list(session.scalars(select(EventRow).where(EventRow.kind == "loop.deployed")))


def test_a_plan_says_what_is_left_and_changes_nothing(store, serve, loop):
    before = world.dump(store)
    plan = loop().plan(V2)
    assert plan[:2] == ["deploy tiny:v2 as tiny:v1 is deployed", "deploy the controller of rollouts"]
    assert plan[2].startswith("begin a rollout of tiny:v2 by ")
    assert plan[2].endswith(": 5%, approval, 100%")
    assert (world.dump(store), serve.deployed) == (before, [])


def test_a_version_that_is_yet_to_be_published_can_be_planned(loop):
    assert len(loop().plan(VersionRef(model=MODEL, version="v9"))) == 3


def test_it_is_deployed_beside_stable_and_begun_with_its_reason(store, serve, loop):
    begun = carry_out(loop())
    assert (begun.deployed, begun.begun, begun.phase) == (True, True, "pending")
    assert serve.now["applications"] == [GATEWAY, version_block("v1"), version_block("v2"), CONTROLLER]
    [decision] = decisions(store)
    assert (decision.rollout_id, decision.command) == (begun.rollout, "begin")
    assert decision.inputs["reason"] == "the run run-1 published it; policy canary.yaml"
    [event] = deployments(store)
    assert (event.subject, event.detail) == ("tiny:v2", {"run": "run-1", "like": "tiny:v1"})


def test_done_again_it_does_nothing(store, serve, loop):
    first = carry_out(loop())
    assert loop().plan(V2) == []
    again = carry_out(loop())
    assert (again.rollout, again.deployed, again.begun) == (first.rollout, False, False)
    assert (len(serve.deployed), len(decisions(store)), len(deployments(store))) == (1, 1, 1)


def test_cut_short_anywhere_it_goes_on_where_it_stopped(store, serve, loop):
    """Killed before each SQL statement in turn: in the end it is deployed once and begun once."""
    statement = 0
    while not decisions(store):
        with contextlib.suppress(Killed), world.killed_at(store, statement):
            carry_out(loop())
        statement += 1
    assert statement > 10
    assert carry_out(loop()).begun is False
    assert serve.names() == ["gateway", "tiny-v1", "tiny-v2", "rollouts"]
    assert (len(serve.deployed), len(decisions(store))) == (1, 1)


def test_one_that_is_over_is_not_begun_again_by_the_same_policy(store, loop, policy):
    first = carry_out(loop())
    Rollouts(store).run(Rollback(model=MODEL))
    again = carry_out(loop())
    assert (again.rollout, again.phase, again.begun) == (first.rollout, "rolled_back", False)
    policy.write_text(POLICY + "attempt: 2\n")
    assert carry_out(loop()).rollout == first.rollout + 1


def test_another_rollout_that_is_active_is_not_replaced_and_nothing_is_deployed(store, serve, loop):
    Rollouts(store).run(Start(model=MODEL, candidate="v3", weight=10))
    with pytest.raises(ConflictError) as caught:
        carry_out(loop())
    assert caught.value.code == "rollout.active"
    assert serve.deployed == []


def test_another_tokenizer_is_refused_before_anything_is_deployed(store, serve, loop):
    world.add_version(store, "v4", tokenizer="x" * 64)
    with pytest.raises(GateFailedError, match="another tokenizer"):
        carry_out(loop(), VersionRef(model=MODEL, version="v4"))
    assert serve.deployed == []


def test_without_an_endpoint_for_stable_it_is_refused_beforehand(serve, loop):
    serve.now = {"applications": [GATEWAY]}
    with pytest.raises(NotFoundError) as caught:
        loop().plan(V2)
    assert caught.value.code == "loop.no_stable_application"


def test_a_candidate_that_is_stable_by_another_way_is_refused(store, loop):
    hand = Rollouts(store)
    hand.run(Start(model=MODEL, candidate="v2", weight=10))
    hand.run(Promote(model=MODEL))
    with pytest.raises(ConflictError, match="stable version already"):
        loop().plan(V2)


def test_a_model_without_a_stable_version_has_nothing_to_roll_out_beside(loop):
    with pytest.raises(NotFoundError) as caught:
        loop().plan(VersionRef(model="nobody", version="v1"))
    assert caught.value.code == "rollout.no_stable"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("candidate: v3\n", "for the candidate v3"),
        ("steps: [{weight: 50}, {weight: 5}, {weight: 100}]\n", "weights go up"),
        ("slack: {url_env: NO_SUCH_VARIABLE}\n", "NO_SUCH_VARIABLE"),
    ],
)
def test_a_policy_that_cannot_be_carried_out_is_refused_beforehand(loop, policy, text, told):
    policy.write_text(text)
    with pytest.raises(ConfigError, match=told):
        loop().plan(V2)


def test_a_time_to_wait_is_checked_beforehand(loop):
    with pytest.raises(UsageError, match="`soon` is no timeout"):
        loop("soon")


def test_waiting_tells_the_end_and_raises_for_a_bad_one(store, loop):
    waiting = loop("1s")
    begun = carry_out(waiting)
    with pytest.raises(TimedOutError):
        ThenRollout.wait(loop("1ms"), V2, begun.rollout, lambda line: None)
    Rollouts(store).run(Rollback(model=MODEL), reason="I do not like it")
    told: list[str] = []
    with pytest.raises(GateFailedError, match="I do not like it"):
        waiting.wait(V2, begun.rollout, told.append)
    assert len(told) == 2


def test_a_promoted_one_is_told_as_such(store, loop):
    begun = carry_out(loop())
    Rollouts(store).run(Promote(model=MODEL))
    ended = loop("1s").wait(V2, begun.rollout, lambda line: None)
    assert (ended["rollout"], ended["phase"]) == (begun.rollout, "promoted")
