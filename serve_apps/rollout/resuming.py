"""What a person's `resume` changes in what is known: gates that have failed are judged anew from there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve_apps.rollout import replica_gates
from serve_apps.rollout.gate_spec import Gate
from serve_apps.rollout.judge.finding import Verdict, judge
from serve_apps.rollout.judge.terms import Test
from serve_apps.rollout.looks import Progress, Signals
from serve_apps.rollout.spec import RolloutSpec


def resumed(spec: RolloutSpec, asked: Mapping[str, Test], before: Progress, signals: Signals) -> Progress:
    """The same as `before` where nobody has resumed since, or no gate that decides has failed.

    Else a rollout that a gate has paused could never go on; a fault that is still there fails it again.
    """
    if signals.resumes == before.resumes:
        return before
    known = before.model_copy(update={"resumes": signals.resumes})
    failed = {gate.name for gate in spec.judged if _has_failed(gate, asked.get(gate.name), before, signals)}
    if not failed:
        return known
    anew: dict[str, Any] = {
        kept: {name: one for name, one in getattr(before, kept).items() if name not in failed}
        for kept in ("evidence", "answers", "rounds", "missing")
    }
    if any(gate.name in failed for gate in spec.gates if replica_gates.is_of_losses(gate)):
        anew["forgiven"] = signals.lost
    return known.model_copy(update={**anew, "decided_s": before.watched_s})


def _has_failed(gate: Gate, test: Test | None, before: Progress, signals: Signals) -> bool:
    if test is not None:
        evidence = before.evidence.get(gate.name)
        return evidence is not None and judge(evidence, test) is Verdict.FAIL
    if gate.metric is not None:
        return replica_gates.find(gate, signals, forgiven=before.forgiven).verdict is Verdict.FAIL
    answer = before.answers.get(gate.name)
    return answer is not None and answer.verdict.value == Verdict.FAIL.value
