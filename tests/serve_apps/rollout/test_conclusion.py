from __future__ import annotations

import pytest

from serve_apps.rollout.conclusion import NO_TRAFFIC, Action, conclude
from serve_apps.rollout.judge.finding import Verdict
from serve_apps.rollout.looks import Progress
from serve_apps.rollout.states import Phase, Reason
from tests.serve_apps.rollout.concluding import ERRORS, LIMIT, TTFT, concluded, found, policy, signals


def test_with_all_gates_passed_and_the_time_held_the_next_step_is_taken():
    done = concluded()
    assert (done.action, done.reason) == (Action.ADVANCE, Reason.STEP_TAKEN)
    assert done.why == "all 3 gates pass at 5%"


def test_the_last_step_is_followed_by_the_promotion():
    done = concluded(met=signals(step=2, weight=100.0))
    assert (done.action, done.reason) == (Action.PROMOTE, Reason.PROMOTED)


@pytest.mark.parametrize(
    ("met", "why"),
    [
        ({"refused": "it answers 'Lyon'"}, "did not prove itself: it answers 'Lyon'"),
        (
            {"given_up": "three failed", "serving": 0},
            "given up starting the candidate: three failed",
        ),
        ({"lost": 3}, "3 replicas of the candidate were lost, more than 2"),
    ],
)
@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.PROGRESSING, Phase.PAUSED])
def test_a_candidate_that_is_down_is_taken_back_whatever_the_phase(met, why, phase):
    done = concluded(met=signals(phase=phase, **met))
    assert (done.action, done.reason) == (Action.ROLL_BACK, Reason.CANDIDATE_DOWN)
    assert why in done.why


def test_as_many_lost_replicas_as_are_allowed_change_nothing():
    assert concluded(met=signals(lost=2)).action is Action.ADVANCE


def test_a_failed_gate_takes_back_and_is_named():
    done = concluded(errors=Verdict.FAIL)
    assert (done.action, done.reason, done.gate) == (Action.ROLL_BACK, Reason.GATE_FAILED, ERRORS)
    assert done.why == f"{ERRORS} failed: it is a fail"


def test_what_has_failed_is_kept_while_nothing_else_would_answer():
    done = concluded(met=signals(can_go_back=False), errors=Verdict.FAIL)
    assert (done.action, done.gate) == (Action.HOLD, ERRORS)
    assert done.why == f"{ERRORS} failed: it is a fail; no replica of stable serves to go back to"
    assert concluded(met=signals(can_go_back=False)).action is Action.ADVANCE


@pytest.mark.parametrize("down", [{"lost": 3}, {"refused": "it answers 'Lyon'"}])
def test_one_that_is_down_is_kept_only_while_a_replica_of_it_answers_alone(down):
    done = concluded(met=signals(can_go_back=False, serving=8, **down))
    assert done.action is Action.HOLD
    assert done.why.endswith("no replica of stable serves to go back to")
    assert concluded(met=signals(can_go_back=False, serving=0, **down)).action is Action.ROLL_BACK
    assert concluded(met=signals(serving=8, **down)).action is Action.ROLL_BACK


def test_a_failed_gate_pauses_where_the_policy_says_so():
    done = concluded(policy(on_fail="pause"), ttft=Verdict.FAIL)
    assert (done.action, done.reason, done.gate) == (Action.PAUSE, Reason.GATE_FAILED, TTFT)


def test_a_critical_gate_takes_back_all_the_same_and_before_the_others():
    spec = policy("critical", on_fail="pause")
    done = concluded(spec, errors=Verdict.FAIL, ttft=Verdict.FAIL)
    assert (done.action, done.gate) == (Action.ROLL_BACK, ERRORS)
    assert concluded(spec, ttft=Verdict.FAIL).action is Action.PAUSE


def test_a_gate_that_is_for_reading_decides_nothing():
    assert concluded(policy("info"), errors=Verdict.FAIL).action is Action.ADVANCE
    assert concluded(policy("info"), errors=Verdict.INCONCLUSIVE).action is Action.ADVANCE


def test_a_paused_rollout_holds():
    done = concluded(met=signals(phase=Phase.PAUSED))
    assert (done.action, done.why) == (Action.HOLD, "paused")


def test_a_paused_rollout_is_taken_back_by_a_failed_gate():
    assert concluded(met=signals(phase=Phase.PAUSED), errors=Verdict.FAIL).action is Action.ROLL_BACK


def test_a_paused_rollout_is_not_paused_again_but_says_which_gate_fails():
    done = concluded(policy(on_fail="pause"), signals(phase=Phase.PAUSED), ttft=Verdict.FAIL)
    assert (done.action, done.gate) == (Action.HOLD, TTFT)


PENDING = {"phase": Phase.PENDING, "step": -1, "weight": 0.0, "gateways": {}}


def test_the_first_step_is_taken_once_a_replica_serves():
    done = concluded(met=signals(**PENDING))
    assert (done.action, done.reason) == (Action.ADVANCE, Reason.STEP_TAKEN)
    assert done.why == "1 replicas of the candidate serve; its first weight is 5%"


def test_a_step_that_waits_for_a_person_holds_until_it_is_approved():
    done = concluded(met=signals(step=1))
    assert (done.action, done.why) == (Action.HOLD, "a person's approval")
    done = concluded(met=signals(step=1, approved=1), limit=Verdict.INCONCLUSIVE)
    assert (done.action, done.why) == (Action.ADVANCE, "approved")


@pytest.mark.parametrize(
    ("met", "why"),
    [
        ({"gateways": {"g1": 6, "g2": 7}}, "1 of 2 gateways have not taken up the weight yet"),
        ({"gateways": {}}, "0 of 0 gateways have not taken up the weight yet"),
        ({"serving": 0}, "no replica of the candidate serves"),
        ({"confirmed": False}, "the webhook's confirmation"),
        ({"confirmed": False, "unconfirmed": "http://ci says no"}, "http://ci says no"),
    ],
)
def test_a_step_is_not_over_while_something_is_missing(met, why):
    done = concluded(met=signals(**met))
    assert (done.action, done.why) == (Action.HOLD, why)


def test_a_step_is_held_for_as_long_as_the_policy_says():
    done = concluded(watched_s=12.0)
    assert (done.action, done.why) == (Action.HOLD, "18 s of 30 s are left to hold")
    assert concluded(watched_s=30.0).action is Action.ADVANCE


@pytest.mark.parametrize(
    "gates", [[], [{"metric": "restarts", "max": 0}], [{"webhook": {"url": "http://ci"}}]]
)
@pytest.mark.parametrize(
    ("met", "then"), [({}, Action.ADVANCE), ({"step": 2, "weight": 100.0}, Action.PROMOTE)]
)
def test_no_step_passes_without_an_answer_of_the_candidate(gates, met, then):
    spec = policy(gates=gates)
    passed = {gate.name: found(Verdict.PASS) for gate in spec.gates}
    silent = Progress(step=0, watched_s=60.0)
    done = conclude(spec, signals(**met), silent, passed)
    assert (done.action, done.why) == (Action.HOLD, NO_TRAFFIC)
    heard = silent.model_copy(update={"answered": 1})
    assert conclude(spec, signals(**met), heard, passed).action is then


def test_an_inconclusive_gate_holds_and_the_one_that_misses_most_is_named():
    done = concluded(
        errors=found(Verdict.INCONCLUSIVE, missing=70), limit=found(Verdict.INCONCLUSIVE, missing=400)
    )
    assert done.action is Action.HOLD
    assert done.why == (
        f"{LIMIT} is inconclusive and 1 more: it is a inconclusive, about 400 more answers of the candidate"
    )
    alone = concluded(errors=Verdict.INCONCLUSIVE)
    assert alone.why == f"{ERRORS} is inconclusive: it is a inconclusive"


FULL = signals(step=2, weight=100.0)


def test_at_all_of_the_traffic_a_comparison_is_over_but_a_limit_of_its_own_is_not():
    undecided = Verdict.INCONCLUSIVE
    assert concluded(met=FULL, errors=undecided, ttft=undecided).action is Action.PROMOTE
    assert concluded(met=FULL, limit=undecided).action is Action.HOLD
    assert concluded(met=FULL, errors=Verdict.FAIL).action is Action.ROLL_BACK


def test_at_all_of_the_traffic_it_must_have_answered_too():
    few = found(Verdict.INCONCLUSIVE, samples=19, missing=1)
    assert concluded(met=FULL, ttft=few).action is Action.HOLD
    assert concluded(met=FULL, ttft=found(Verdict.INCONCLUSIVE, samples=20)).action is Action.PROMOTE


@pytest.mark.parametrize(
    ("baseline", "weight", "fresh", "holds"),
    [
        ("fresh", 5, 0, True),
        ("fresh", 49.99, 0, True),
        ("fresh", 5, 1, False),
        ("fresh", 50, 0, False),
        ("stable", 5, 0, False),
    ],
)
def test_a_step_below_half_waits_for_a_fresh_replica_where_one_is_compared_with(
    baseline, weight, fresh, holds
):
    spec = policy(baseline=baseline, steps=[{"weight": weight}, {"weight": 100}])
    done = concluded(spec, signals(fresh=fresh, no_fresh="v1 has a fixed number"))
    assert (done.action is Action.HOLD) == holds
    assert (done.why == "no fresh replica of stable serves: v1 has a fixed number") == holds


def test_a_candidate_that_fails_is_taken_back_without_one_too():
    done = concluded(policy(baseline="fresh"), errors=Verdict.FAIL)
    assert done.action is Action.ROLL_BACK
