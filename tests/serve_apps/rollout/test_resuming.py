from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from cluster.tally import VersionTally
from serve_apps.rollout.conclusion import Action
from serve_apps.rollout.judge.finding import Verdict
from serve_apps.rollout.look import look
from serve_apps.rollout.looks import Counted, LookInputs, Progress, Signals, Told
from serve_apps.rollout.outside.verdict import Answer
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.rollout.states import Phase

START = datetime(2026, 3, 1, 12)
WEBHOOK, QUALITY, ERRORS = "webhook http://ci/gate", "quality max_drop", "error_rate max"
SPEC = RolloutSpec.model_validate(
    {
        "candidate": "v2",
        "steps": [{"weight": 10}, {"weight": 100}],
        "gates": [
            {"metric": "error_rate", "max": "20%"},
            {"metric": "repetition_rate", "max": "20%"},
            {"metric": "quality", "data": "set.jsonl", "max_drop": "5 points"},
            {"metric": "restarts", "max": 1},
            {"webhook": {"url": "http://ci/gate"}},
        ],
        "on_fail": "pause",
    }
)
BAD = VersionTally(counts={"requests": 100, "errors": 100, "texts": 100})
FAULTS = {
    ERRORS: {"counted": (Counted(revision=2, candidate=BAD),)},
    QUALITY: {"told": {QUALITY: Told(differences=((-1.0, 100),), round=0)}},
    WEBHOOK: {"told": {WEBHOOK: Told(answer=Answer(verdict="fail", reason="red"))}},
}


def seen(known, seconds, lost=0, resumes=0, **seen):
    signals = Signals(
        phase=Phase.PROGRESSING,
        step=0,
        approved=-1,
        weight=10.0,
        revision=2,
        gateways={"g": 2},
        serving=1,
        lost=lost,
        resumes=resumes,
    )
    return look(SPEC, known, LookInputs(at=START + timedelta(seconds=seconds), signals=signals, **seen))


@pytest.mark.parametrize("gate", FAULTS)
def test_a_gate_that_has_failed_begins_anew_and_may_fail_again(gate):
    known, outcome = seen(Progress(), 0, **FAULTS[gate])
    assert (outcome.conclusion.action, outcome.conclusion.gate) == (Action.PAUSE, gate)
    again, outcome = seen(known, 30)
    assert outcome.conclusion.action is Action.PAUSE
    again, outcome = seen(known, 30, resumes=1)
    assert outcome.findings[gate].verdict is Verdict.INCONCLUSIVE
    assert outcome.conclusion.action is Action.HOLD
    assert again.rounds == {}
    assert again.decided_s == 0.0
    _, outcome = seen(again, 60, resumes=1, **FAULTS[gate])
    assert (outcome.conclusion.action, outcome.conclusion.gate) == (Action.PAUSE, gate)


def test_lost_replicas_are_forgiven():
    known, outcome = seen(Progress(), 0, lost=2)
    assert outcome.conclusion.gate == "restarts max"
    known, outcome = seen(known, 30, lost=2, resumes=1)
    assert (known.forgiven, outcome.findings["restarts max"].verdict) == (2, Verdict.PASS)
    known, outcome = seen(known, 60, lost=3, resumes=1)
    assert outcome.findings["restarts max"].verdict is Verdict.PASS


def test_the_others_keep_what_they_know_and_a_resume_is_seen_to_once():
    known, _ = seen(Progress(), 0, **FAULTS[ERRORS])
    resumed, _ = seen(known, 30, resumes=1)
    loops = "repetition_rate max"
    assert resumed.evidence[loops] == known.evidence[loops]
    assert resumed.evidence[loops].counts.n_candidate == 100
    failed, _ = seen(resumed, 60, resumes=1, **FAULTS[ERRORS])
    assert seen(failed, 90, resumes=1)[1].conclusion.action is Action.PAUSE


def test_where_nothing_has_failed_a_resume_changes_nothing():
    fine = VersionTally(counts={"requests": 100, "texts": 100})
    known, _ = seen(Progress(), 0, counted=(Counted(revision=2, candidate=fine),))
    assert seen(known, 30, resumes=1)[1] == seen(known, 30)[1]
