from __future__ import annotations

import pytest

from serve_apps.rollout.conclusion import NO_TRAFFIC, WEBHOOK, Action, conclude
from serve_apps.rollout.judge.finding import Finding, Verdict
from serve_apps.rollout.looks import Progress, Signals
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.rollout.states import Phase, Reason

ERRORS, TTFT, LIMIT = "error_rate max_ratio", "ttft p50 max_ratio", "timeout_rate max"
PASSED = dict.fromkeys((ERRORS, TTFT, LIMIT), Verdict.PASS)


def policy(severity="normal", **changes):
    return RolloutSpec.model_validate(
        {
            "candidate": "v2",
            "steps": [{"weight": 5, "hold": "30s"}, {"approve": True}, {"weight": 100}],
            "gates": [
                {"metric": "error_rate", "max_ratio": 1.5, "severity": severity, "min_samples": 20},
                {"metric": "ttft", "quantile": 0.5, "max_ratio": 1.5, "min_samples": 20},
                {"metric": "timeout_rate", "max": "5%", "min_samples": 20},
            ],
            **changes,
        }
    )


def signals(**changes):
    fields = {
        "phase": Phase.PROGRESSING,
        "step": 0,
        "approved": -1,
        "weight": 5.0,
        "revision": 7,
        "gateways": {"g1": 7, "g2": 8},
        "serving": 1,
    }
    return Signals(**{**fields, **changes})


def found(verdict, samples=100, missing=None):
    return Finding(
        verdict=verdict,
        reason=f"it is a {verdict.value}",
        effect=1.0,
        low=None,
        high=None,
        limit=1.5,
        samples=samples,
        missing=missing,
        log_e_worse=0.0,
        log_e_fine=0.0,
    )


def concluded(spec=None, met=None, watched_s=60.0, answered=100, **verdicts):
    named = {"errors": ERRORS, "ttft": TTFT, "limit": LIMIT}
    findings = {name: found(verdict) for name, verdict in PASSED.items()}
    for short, finding in verdicts.items():
        findings[named[short]] = finding if isinstance(finding, Finding) else found(finding)
    known = Progress(step=0, watched_s=watched_s, answered=answered)
    return conclude(spec or policy(), met or signals(), known, findings)


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


def test_before_that_it_waits_until_the_start_deadline():
    silent = signals(**PENDING, serving=0, confirmed=False, unconfirmed="http://ci does not agree: red")
    why = "no replica of the candidate serves yet"
    early = concluded(met=silent, watched_s=899.0)
    assert (early.action, early.why) == (Action.HOLD, why)
    late = concluded(met=silent, watched_s=900.0)
    assert (late.action, late.reason) == (Action.ROLL_BACK, Reason.CANDIDATE_DOWN)
    assert late.why == f"{why}, after 15m"


def test_whoever_does_not_agree_to_the_start_has_no_deadline():
    why = "http://ci does not agree: red"
    done = concluded(met=signals(**PENDING, confirmed=False, unconfirmed=why), watched_s=1e6)
    assert (done.action, done.why) == (Action.HOLD, why)
    assert concluded(met=signals(**PENDING, confirmed=False)).why == WEBHOOK


def test_a_replica_that_has_served_meanwhile_is_waited_for_as_long_again():
    known = Progress(watched_s=9999.0, decided_s=9100.0)
    findings = {name: found(verdict) for name, verdict in PASSED.items()}
    gone = signals(**PENDING, serving=0)
    assert conclude(policy(), gone, known, findings).action is Action.HOLD
    later = known.model_copy(update={"watched_s": 10_000.0})
    assert conclude(policy(), gone, later, findings).action is Action.ROLL_BACK


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


def test_one_that_nobody_asks_has_no_verdict_by_the_deadline():
    spec = policy(deadline="10m", on_inconclusive="rollback")
    late = concluded(spec, watched_s=600.0, answered=0)
    assert (late.reason, late.why) == (Reason.INCONCLUSIVE, f"no verdict for 10m: {NO_TRAFFIC}")


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


def test_without_a_deadline_no_verdict_holds_for_ever():
    assert concluded(watched_s=1e9, errors=Verdict.INCONCLUSIVE).action is Action.HOLD


def test_no_verdict_by_the_deadline_does_what_the_policy_says():
    taking_back = policy(deadline="10m", on_inconclusive="rollback")
    assert concluded(taking_back, watched_s=599.0, errors=Verdict.INCONCLUSIVE).action is Action.HOLD
    late = concluded(taking_back, watched_s=600.0, errors=Verdict.INCONCLUSIVE)
    assert (late.action, late.reason) == (Action.ROLL_BACK, Reason.INCONCLUSIVE)
    assert late.why.startswith(f"no verdict for 10m: {ERRORS} is inconclusive")
    held = concluded(policy(deadline="10m"), watched_s=600.0, errors=Verdict.INCONCLUSIVE)
    assert (held.action, held.why) == (Action.HOLD, late.why)


SOAKING = {
    "steps": [{"weight": 100, "soak": "24h"}],
    "deadline": "1h",
    "on_inconclusive": "rollback",
}


def test_a_step_that_waits_for_its_time_alone_has_its_verdict():
    for watched_s in (3600.0, 86_399.0):
        done = concluded(policy(**SOAKING), FULL_AT_ONCE, watched_s=watched_s)
        left = f"{86_400 - watched_s:.0f} s of 86400 s are left to hold"
        assert (done.action, done.why) == (Action.HOLD, left)
    assert concluded(policy(**SOAKING), FULL_AT_ONCE, watched_s=86_400.0).action is Action.PROMOTE


def test_the_deadline_runs_while_a_step_is_held_too():
    done = concluded(policy(**SOAKING), FULL_AT_ONCE, watched_s=3600.0, limit=Verdict.INCONCLUSIVE)
    assert (done.action, done.reason) == (Action.ROLL_BACK, Reason.INCONCLUSIVE)
    left = "82800 s of 86400 s are left to hold"
    assert done.why.startswith(f"no verdict for 1h: {left}, and {LIMIT} is inconclusive")


def test_the_deadline_runs_from_the_last_verdict():
    known = Progress(step=0, watched_s=7200.0, decided_s=3601.0)
    findings = dict.fromkeys(PASSED, found(Verdict.INCONCLUSIVE))
    assert conclude(policy(**SOAKING), FULL_AT_ONCE, known, findings).action is Action.HOLD
    later = known.model_copy(update={"watched_s": 7201.0})
    assert conclude(policy(**SOAKING), FULL_AT_ONCE, later, findings).action is Action.ROLL_BACK


@pytest.mark.parametrize("met", [{"confirmed": False}, {"serving": 0}, {"gateways": {"g1": 6}}])
def test_what_is_no_verdict_has_no_deadline(met):
    spec = policy(deadline="10m", on_inconclusive="rollback")
    assert concluded(spec, signals(**met), watched_s=1e6).action is Action.HOLD


def test_a_person_has_no_deadline():
    spec = policy(deadline="10m", on_inconclusive="rollback")
    assert concluded(spec, signals(step=1), watched_s=1e6).action is Action.HOLD


FULL = signals(step=2, weight=100.0)
FULL_AT_ONCE = signals(weight=100.0)


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


def test_one_that_never_comes_is_a_step_without_a_verdict():
    spec = policy(baseline="fresh", deadline="10m", on_inconclusive="rollback")
    done = concluded(spec, signals(no_fresh="none yet"), watched_s=600.0, errors=Verdict.INCONCLUSIVE)
    assert (done.action, done.reason) == (Action.ROLL_BACK, Reason.INCONCLUSIVE)
    assert "no fresh replica of stable serves: none yet" in done.why


def test_a_candidate_that_fails_is_taken_back_without_one_too():
    done = concluded(policy(baseline="fresh"), errors=Verdict.FAIL)
    assert done.action is Action.ROLL_BACK
