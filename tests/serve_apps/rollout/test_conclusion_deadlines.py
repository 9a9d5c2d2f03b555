from __future__ import annotations

import pytest

from serve_apps.rollout.conclusion import NO_TRAFFIC, WEBHOOK, Action, conclude
from serve_apps.rollout.judge.finding import Verdict
from serve_apps.rollout.looks import Progress
from serve_apps.rollout.states import Phase, Reason
from tests.serve_apps.rollout.concluding import ERRORS, LIMIT, PASSED, concluded, found, policy, signals

PENDING = {"phase": Phase.PENDING, "step": -1, "weight": 0.0, "gateways": {}}
FULL_AT_ONCE = signals(weight=100.0)


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


def test_one_that_nobody_asks_has_no_verdict_by_the_deadline():
    spec = policy(deadline="10m", on_inconclusive="rollback")
    late = concluded(spec, watched_s=600.0, answered=0)
    assert (late.reason, late.why) == (Reason.INCONCLUSIVE, f"no verdict for 10m: {NO_TRAFFIC}")


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


def test_one_that_never_comes_is_a_step_without_a_verdict():
    spec = policy(baseline="fresh", deadline="10m", on_inconclusive="rollback")
    done = concluded(spec, signals(no_fresh="none yet"), watched_s=600.0, errors=Verdict.INCONCLUSIVE)
    assert (done.action, done.reason) == (Action.ROLL_BACK, Reason.INCONCLUSIVE)
    assert "no fresh replica of stable serves: none yet" in done.why
