import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ConflictError, GateFailedError, NotFoundError, UsageError
from cluster.traffic import TrafficPolicy
from serve_apps.rollout.machine import decide
from serve_apps.rollout.states import (
    AliasMove,
    Phase,
    Promote,
    Prompting,
    Reason,
    Rollback,
    RolloutState,
    SetWeight,
    Situation,
    Start,
    percent,
)

ALIKE = Prompting(tokenizer_sha256="a" * 64, chat_template_sha256="b" * 64)


def situation(**changes):
    fields = {
        "model": "m",
        "policy": TrafficPolicy(model="m", revision=3, stable="v1"),
        "aliases": {"stable": "v1"},
        "replicas": {"v1": {"serving": 1}, "v2": {"serving": 1}},
        "prompting": {"v1": ALIKE, "v2": ALIKE},
    }
    return Situation(**{**fields, **changes})


def rollout(**changes):
    fields = {
        "id": 7,
        "candidate": "v2",
        "stable": "v1",
        "phase": Phase.PROGRESSING,
        "reason": Reason.STARTED,
        "weight": 10.0,
    }
    return RolloutState(**{**fields, **changes})


def progressing(weight=10.0, **changes):
    return situation(
        policy=TrafficPolicy(model="m", revision=4, stable="v1", candidate="v2", weight=weight),
        aliases={"stable": "v1", "candidate": "v2"},
        active=rollout(weight=weight),
        **changes,
    )


def promoted(**changes):
    fields = {
        "policy": TrafficPolicy(model="m", revision=5, stable="v2"),
        "aliases": {"stable": "v2", "previous": "v1"},
        "last_change": rollout(phase=Phase.PROMOTED, reason=Reason.PROMOTED, weight=100.0),
    }
    return situation(**{**fields, **changes})


def start(weight=10.0, candidate="v2", **changes):
    return Start(model="m", candidate=candidate, weight=weight, **changes)


def test_start_gives_the_candidate_its_share_and_alias():
    decision = decide(start(), situation())
    assert decision.policy == TrafficPolicy(model="m", revision=4, stable="v1", candidate="v2", weight=10)
    assert decision.aliases == (AliasMove(alias="candidate", before=None, after="v2"),)
    assert decision.rollout == rollout(id=None)
    assert "weight from 0% to 10%" in decision.sentence
    assert "from 100% to 90%" in decision.sentence


@pytest.mark.parametrize("weight", [-0.01, 100.01, float("nan"), float("inf"), 10.001, 1e-3])
@pytest.mark.parametrize("build", [start, lambda weight: SetWeight(model="m", weight=weight)])
def test_a_weight_that_no_bucket_can_hold_is_refused(weight, build):
    with pytest.raises(UsageError) as caught:
        decide(build(weight), situation())
    assert caught.value.code == "rollout.weight"


@given(st.integers(min_value=0, max_value=10_000))
def test_every_hundredth_of_a_percent_is_accepted_exactly(hundredths):
    decision = decide(start(hundredths / 100), situation())
    assert round(decision.policy.weight * 100) == hundredths
    assert sum(decision.policy.weights().values()) == pytest.approx(100)


def test_start_refuses_a_second_rollout_and_names_the_first():
    with pytest.raises(ConflictError, match=r"m:v2.*10%"):
        decide(start(candidate="v3"), progressing())


def test_start_refuses_the_stable_version():
    with pytest.raises(UsageError, match="m:v1"):
        decide(start(candidate="v1"), situation())


def test_without_a_stable_version_nothing_starts():
    with pytest.raises(NotFoundError, match="no stable version"):
        decide(start(), situation(policy=None, aliases={}))


def test_start_refuses_a_candidate_without_a_serving_replica_and_shows_why_it_was_refused():
    met = situation(
        replicas={"v1": {"serving": 1}, "v2": {"loading": 2}},
        refusals={"v2": "answers 'L' with 'E'; the reference is 'Paris'"},
    )
    with pytest.raises(GateFailedError) as caught:
        decide(start(), met)
    assert "2 loading" in caught.value.message
    assert "the reference is 'Paris'" in caught.value.message
    assert "serve deploy" in caught.value.hint


SLEEPY = {"v1": {"asleep": 1}, "v2": {"serving": 1}}


def test_a_stable_version_that_sleeps_is_one_to_go_back_to():
    decision = decide(Rollback(model="m"), progressing(replicas=SLEEPY))
    assert decision.policy.weights() == {"v1": 100}
    with pytest.raises(GateFailedError):
        decide(Rollback(model="m"), progressing(replicas=SLEEPY | {"v1": {"loading": 1}}))
    gone = {"v1": {}, "v2": {"asleep": 1}}
    with pytest.raises(GateFailedError):
        decide(Rollback(model="m"), progressing(replicas=gone))


def test_a_candidate_that_sleeps_may_go_on_but_not_begin():
    asleep = {"v1": {"serving": 1}, "v2": {"asleep": 1}}
    assert decide(SetWeight(model="m", weight=50), progressing(replicas=asleep)).policy.weight == 50
    assert decide(Promote(model="m"), progressing(replicas=asleep)).policy.stable == "v2"
    with pytest.raises(GateFailedError, match="sleeps") as caught:
        decide(start(), situation(replicas=asleep))
    assert "x-linnet-version: v2" in caught.value.hint


@pytest.mark.parametrize("field", ["tokenizer_sha256", "chat_template_sha256"])
def test_another_way_to_read_prompts_is_refused_unless_allowed(field):
    met = situation(prompting={"v1": ALIKE, "v2": ALIKE.model_copy(update={field: "c" * 64})})
    with pytest.raises(GateFailedError, match="sha256 cccccccccccc"):
        decide(start(), met)
    assert decide(start(allow_tokenizer_change=True), met).policy.candidate == "v2"


def test_a_missing_chat_template_is_a_change_too():
    met = situation(prompting={"v1": ALIKE, "v2": ALIKE.model_copy(update={"chat_template_sha256": None})})
    with pytest.raises(GateFailedError, match="none"):
        decide(start(), met)


def test_set_weight_tells_both_numbers():
    decision = decide(SetWeight(model="m", weight=25), progressing())
    assert decision.sentence == "m: weight of v2 from 10% to 25%"
    assert decision.aliases == ()
    assert (decision.rollout.id, decision.rollout.reason) == (7, Reason.WEIGHT_SET)


def test_lowering_a_weight_needs_no_replica_of_the_candidate_but_raising_does():
    met = progressing(replicas={"v1": {"serving": 1}})
    assert decide(SetWeight(model="m", weight=0), met).policy.weight == 0
    with pytest.raises(GateFailedError, match="m:v2"):
        decide(SetWeight(model="m", weight=11), met)


def test_setting_the_same_weight_is_refused():
    with pytest.raises(UsageError, match="10% already"):
        decide(SetWeight(model="m", weight=10), progressing())


@pytest.mark.parametrize("command", [SetWeight(model="m", weight=5), Promote(model="m")])
def test_without_an_active_rollout_there_is_nothing_to_act_on(command):
    with pytest.raises(ConflictError, match=command.kind):
        decide(command, situation())


def test_promote_keeps_the_old_stable_as_previous():
    decision = decide(Promote(model="m"), progressing())
    assert decision.policy == TrafficPolicy(model="m", revision=5, stable="v2")
    assert decision.aliases == (
        AliasMove(alias="previous", before=None, after="v1"),
        AliasMove(alias="stable", before="v1", after="v2"),
        AliasMove(alias="candidate", before="v2", after=None),
    )
    assert decision.rollout.phase is Phase.PROMOTED


def test_promote_refuses_a_candidate_that_has_gone():
    with pytest.raises(GateFailedError):
        decide(Promote(model="m"), progressing(replicas={"v1": {"serving": 1}}))


def test_rollback_of_an_active_rollout_leaves_stable_alone():
    decision = decide(Rollback(model="m"), progressing(25.0))
    assert decision.policy == TrafficPolicy(model="m", revision=5, stable="v1")
    assert decision.aliases == (AliasMove(alias="candidate", before="v2", after=None),)
    assert decision.rollout == rollout(phase=Phase.ROLLED_BACK, reason=Reason.ABORTED, weight=0.0)
    assert "from 25% to 0%" in decision.sentence
    assert "from 75% to 100%" in decision.sentence


def test_rollback_after_a_promotion_swaps_stable_and_previous_at_once():
    decision = decide(Rollback(model="m"), promoted())
    assert decision.policy == TrafficPolicy(model="m", revision=6, stable="v1")
    assert set(decision.aliases) == {
        AliasMove(alias="stable", before="v2", after="v1"),
        AliasMove(alias="previous", before="v1", after="v2"),
    }
    assert decision.rollout.reason is Reason.UNDONE


def test_a_promotion_is_undone_only_once():
    undone = rollout(phase=Phase.ROLLED_BACK, reason=Reason.UNDONE, weight=0.0)
    met = situation(aliases={"stable": "v1", "previous": "v2"}, last_change=undone)
    with pytest.raises(ConflictError, match="already") as caught:
        decide(Rollback(model="m"), met)
    assert "rollout start m:v2" in caught.value.hint


def test_rollback_with_nothing_behind_is_refused():
    with pytest.raises(ConflictError) as caught:
        decide(Rollback(model="m"), situation())
    assert caught.value.code == "rollout.nothing_to_roll_back"


@pytest.mark.parametrize(
    "met", [progressing(10.0, replicas={"v2": {"serving": 1}}), promoted(replicas={"v2": {"serving": 1}})]
)
def test_rollback_refuses_to_drop_callers_on_a_version_that_does_not_serve(met):
    with pytest.raises(GateFailedError, match="m:v1"):
        decide(Rollback(model="m"), met)
    assert decide(Rollback(model="m", force=True), met).policy.stable == "v1"


@pytest.mark.parametrize("met", [progressing(replicas={}), promoted(replicas={})])
def test_rollback_waits_for_no_model_when_nothing_serves(met):
    assert decide(Rollback(model="m"), met).policy.weights() == {"v1": 100.0}


def test_a_candidate_at_0_percent_is_taken_back_whatever_serves():
    met = progressing(0.0, replicas={"v2": {"serving": 1}})
    assert decide(Rollback(model="m"), met).policy.candidate is None


@pytest.mark.parametrize(
    ("weight", "text"), [(0, "0%"), (100, "100%"), (10, "10%"), (33.33, "33.33%"), (0.1, "0.1%")]
)
def test_percent(weight, text):
    assert percent(weight) == text
