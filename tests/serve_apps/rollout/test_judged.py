from __future__ import annotations

import pytest

from cluster.errors import ConflictError, GateFailedError, UsageError
from cluster.judging import Judging
from cluster.traffic import TrafficPolicy
from serve_apps.rollout.machine import decide
from serve_apps.rollout.states import (
    Advance,
    AliasMove,
    Approve,
    Begin,
    Pause,
    Phase,
    Promote,
    Prompting,
    Reason,
    Resume,
    Rollback,
    RolloutState,
    SetWeight,
    Situation,
)

ALIKE = Prompting(tokenizer_sha256="a" * 64, chat_template_sha256=None)
SERVING = {version: {"serving": 1} for version in ("v1", "v2", "v3")}
JUDGING = Judging(rollout=7)


def idle(**changes):
    fields = {
        "model": "m",
        "policy": TrafficPolicy(model="m", revision=3, stable="v1"),
        "aliases": {"stable": "v1"},
        "replicas": SERVING,
        "prompting": dict.fromkeys(("v1", "v2", "v3"), ALIKE),
    }
    return Situation(**{**fields, **changes})


def under_way(
    step=0, weight=5.0, phase=Phase.PROGRESSING, approved=-1, by_hand=False, awaits=False, **changes
):
    active = RolloutState(
        id=7,
        candidate="v2",
        stable="v1",
        phase=phase,
        reason=Reason.STEP_TAKEN,
        weight=weight,
        spec_sha256=None if by_hand else "f" * 64,
        steps=3,
        step=step,
        approved=approved,
        awaits_approval=awaits,
    )
    judging = None if step < 0 or by_hand else JUDGING
    policy = TrafficPolicy(model="m", revision=4, stable="v1", candidate="v2", weight=weight, judging=judging)
    aliases = {"stable": "v1", "candidate": "v2"}
    return idle(**{"policy": policy, "aliases": aliases, "active": active, **changes})


def begin(candidate="v2", **changes):
    return Begin(model="m", candidate=candidate, spec_sha256="e" * 64, steps=3, **changes)


def advance(step=1, weight=25.0, rollout=7, judging=JUDGING):
    return Advance(model="m", rollout=rollout, step=step, weight=weight, judging=judging)


def refused(command, met, error=ConflictError):
    with pytest.raises(error) as caught:
        decide(command, met)
    return caught.value.code


def test_a_rollout_begins_at_nothing_with_its_alias():
    done = decide(begin(), idle())
    assert done.policy == TrafficPolicy(model="m", revision=4, stable="v1", candidate="v2")
    assert done.aliases == (AliasMove(alias="candidate", before=None, after="v2"),)
    assert (done.rollout.phase, done.rollout.step, done.rollout.weight) == (Phase.PENDING, -1, 0.0)
    assert (done.rollout.spec_sha256, done.rollout.steps) == ("e" * 64, 3)
    assert done.replaced is None


def test_it_begins_without_a_replica_of_the_candidate():
    assert decide(begin(), idle(replicas={"v1": {"serving": 1}})).rollout.phase is Phase.PENDING


def test_stable_is_no_candidate_and_another_tokenizer_none_unless_allowed():
    assert refused(begin("v1"), idle(), UsageError) == "rollout.candidate_is_stable"
    other = idle(prompting={"v1": ALIKE, "v2": ALIKE.model_copy(update={"tokenizer_sha256": "b" * 64})})
    assert refused(begin(), other, GateFailedError) == "gate.tokenizer_change"
    assert decide(begin(allow_tokenizer_change=True), other).policy.candidate == "v2"


def test_another_is_begun_in_its_place_only_where_that_is_said():
    assert refused(begin("v3"), under_way()) == "rollout.active"
    done = decide(begin("v3", replace=True), under_way())
    assert done.policy == TrafficPolicy(model="m", revision=5, stable="v1", candidate="v3")
    assert done.aliases == (AliasMove(alias="candidate", before="v2", after="v3"),)
    assert done.replaced is not None
    assert (done.replaced.id, done.replaced.phase) == (7, Phase.ROLLED_BACK)
    assert (done.replaced.reason, done.replaced.weight) == (Reason.SUPERSEDED, 0.0)
    assert "it replaces that of v2 at 5%" in done.sentence


def test_one_is_not_replaced_while_nobody_else_would_answer():
    alone = {"v2": {"serving": 1}}
    assert refused(begin("v3", replace=True), under_way(replicas=alone), GateFailedError) == "gate.no_replica"
    met = under_way(step=-1, weight=0.0, phase=Phase.PENDING, replicas=alone)
    assert decide(begin("v3", replace=True), met).replaced is not None


def test_the_next_step_is_taken_with_what_gateways_count():
    met = under_way(step=-1, weight=0.0, phase=Phase.PENDING)
    done = decide(advance(step=0, weight=5.0), met)
    assert (done.policy.weight, done.policy.judging, done.policy.revision) == (5.0, JUDGING, 5)
    assert (done.rollout.phase, done.rollout.step, done.rollout.weight) == (Phase.PROGRESSING, 0, 5.0)
    assert done.sentence == "m: step 1 of 3, weight of v2 from 0% to 5%"


@pytest.mark.parametrize("step", [0, 2, 3])
def test_no_step_is_taken_twice_and_none_is_skipped(step):
    assert refused(advance(step=step), under_way(step=0)) == "rollout.step"


def test_there_is_no_step_after_the_last():
    assert refused(advance(step=3), under_way(step=2, weight=100.0)) == "rollout.step"


def test_a_paused_rollout_takes_no_step():
    assert refused(advance(), under_way(phase=Phase.PAUSED)) == "rollout.step"


def test_a_step_of_a_rollout_that_is_over_is_not_taken_of_another():
    assert refused(advance(rollout=6), under_way()) == "rollout.over"
    assert refused(advance(), idle()) == "rollout.none_active"


def test_a_step_that_raises_the_weight_needs_a_replica_and_one_that_waits_for_a_person_does_not():
    met = under_way(replicas={"v1": {"serving": 1}})
    assert refused(advance(), met, GateFailedError) == "gate.no_replica"
    done = decide(advance(weight=5.0), met)
    assert done.policy == met.policy
    assert done.rollout.step == 1


def test_a_person_approves_the_step_that_it_is_at_once():
    done = decide(Approve(model="m"), under_way(step=1, awaits=True))
    assert (done.rollout.approved, done.rollout.reason) == (1, Reason.APPROVED)
    assert done.policy.revision == 4
    assert refused(Approve(model="m"), under_way(step=1, approved=1, awaits=True)) == "rollout.approved"


def test_a_step_that_waits_for_no_person_is_not_approved():
    for phase, step in ((Phase.PENDING, -1), (Phase.PROGRESSING, 0), (Phase.PAUSED, 0)):
        assert refused(Approve(model="m"), under_way(step=step, phase=phase)) == "rollout.no_approval"


def test_a_step_knows_whether_it_waits_for_a_person():
    met = under_way()
    waiting = decide(advance(weight=5.0).model_copy(update={"awaits_approval": True}), met).rollout
    assert waiting.awaits_approval
    past = decide(advance(step=2), under_way(step=1, awaits=True)).rollout
    assert not past.awaits_approval


def test_a_pause_keeps_the_weight_and_its_reason():
    done = decide(Pause(model="m", rollout=7, why=Reason.GATE_FAILED), under_way())
    assert (done.rollout.phase, done.rollout.reason) == (Phase.PAUSED, Reason.GATE_FAILED)
    assert (done.policy, done.aliases) == (under_way().policy, ())
    assert refused(Pause(model="m"), under_way(phase=Phase.PAUSED)) == "rollout.paused"
    assert refused(Pause(model="m", rollout=6), under_way()) == "rollout.over"


@pytest.mark.parametrize(("step", "phase"), [(-1, Phase.PENDING), (0, Phase.PROGRESSING)])
def test_it_goes_on_from_where_it_was_paused(step, phase):
    done = decide(Resume(model="m"), under_way(step=step, phase=Phase.PAUSED, weight=0.0))
    assert (done.rollout.phase, done.rollout.step, done.rollout.reason) == (phase, step, Reason.RESUMED)
    assert refused(Resume(model="m"), under_way()) == "rollout.not_paused"


@pytest.mark.parametrize("command", [Approve(model="m"), Pause(model="m"), Resume(model="m")])
def test_what_people_move_by_hand_knows_no_policy(command):
    assert refused(command, under_way(by_hand=True)) == "rollout.by_hand"
    assert refused(command, idle()) == "rollout.none_active"


def test_the_weight_of_a_judged_one_is_its_policys_business():
    assert refused(SetWeight(model="m", weight=50), under_way()) == "rollout.judged"


def test_promotion_and_rollback_end_the_counting_and_name_the_rollout_that_is_meant():
    for command in (Promote(model="m", rollout=7), Rollback(model="m", rollout=7, why=Reason.GATE_FAILED)):
        done = decide(command, under_way())
        assert done.policy.judging is None
        assert done.rollout.spec_sha256 == "f" * 64
    assert done.rollout.reason is Reason.GATE_FAILED
    assert refused(Promote(model="m", rollout=6), under_way()) == "rollout.over"
    assert refused(Rollback(model="m", rollout=6), under_way()) == "rollout.over"


def test_a_controllers_rollback_undoes_no_promotion():
    promoted = under_way().active.model_copy(update={"phase": Phase.PROMOTED})
    met = idle(aliases={"stable": "v2", "previous": "v1"}, last_change=promoted)
    assert refused(Rollback(model="m", rollout=7), met) == "rollout.over"
