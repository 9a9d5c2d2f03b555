"""What is to be done after a look: a pure function of the policy, what is known, and the findings."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from cluster.config import StrictModel
from cluster.traffic import HALF
from serve_apps.rollout.gate_spec import Gate, Severity
from serve_apps.rollout.judge.finding import Finding, Verdict
from serve_apps.rollout.looks import Progress, Signals
from serve_apps.rollout.spec import Baseline, OnFail, OnInconclusive, RolloutSpec, Step
from serve_apps.rollout.states import Phase, Reason, percent
from serve_apps.rollout.units import written

WEBHOOK = "the webhook's confirmation"
NO_TRAFFIC = "held for want of traffic: the candidate has answered nobody at this step yet"


class Action(StrEnum):
    """What a look leads to."""

    HOLD = "hold"
    ADVANCE = "advance"
    PROMOTE = "promote"
    PAUSE = "pause"
    ROLL_BACK = "roll_back"


class Conclusion(StrictModel):
    """`why` is a sentence with the numbers that were compared; `gate` the one that decided, if any."""

    action: Action
    reason: Reason | None = None
    gate: str | None = None
    why: str


def conclude(
    spec: RolloutSpec, signals: Signals, progress: Progress, findings: Mapping[str, Finding]
) -> Conclusion:
    """Bad news first: what is down, what failed. Then whether the step has all that it needs, or is late.

    What is to be taken back is kept while that would lose answers: the candidate answers, stable does not.
    """
    found = _conclude(spec, signals, progress, findings)
    is_gone = found.reason is Reason.CANDIDATE_DOWN and not signals.serving
    if found.action is not Action.ROLL_BACK or is_gone or signals.can_go_back:
        return found
    why = f"{found.why}; no replica of stable serves to go back to"
    return found.model_copy(update={"action": Action.HOLD, "why": why})


def _conclude(
    spec: RolloutSpec, signals: Signals, progress: Progress, findings: Mapping[str, Finding]
) -> Conclusion:
    if (down := _down(spec, signals)) is not None:
        return _take_back(Reason.CANDIDATE_DOWN, down)
    if (failed := _failed(spec, signals, findings)) is not None:
        return failed
    match signals.phase:
        case Phase.PAUSED:
            return _hold("paused")
        case Phase.PENDING:
            return _pending(spec, signals, progress)
    waits_for = _waits_for(spec, spec.steps[signals.step], signals, progress, findings)
    if waits_for is None:
        return _onward(spec, signals)
    return (
        _hold(waits_for)
        if is_decided(spec, signals, progress, findings)
        else _waiting(spec, progress, waits_for)
    )


def _waiting(spec: RolloutSpec, progress: Progress, waits_for: str) -> Conclusion:
    deadline = spec.deadline
    if deadline is None or progress.undecided_s < deadline.total_seconds():
        return _hold(waits_for)
    late = f"no verdict for {written(deadline)}: {waits_for}"
    if spec.on_inconclusive is OnInconclusive.ROLLBACK:
        return _take_back(Reason.INCONCLUSIVE, late)
    return _hold(late)


def _down(spec: RolloutSpec, signals: Signals) -> str | None:
    if signals.refused is not None:
        return f"a replica of the candidate did not prove itself: {signals.refused}"
    if signals.given_up and not signals.serving:
        return f"Serve has given up starting the candidate: {signals.given_up}"
    if signals.lost > spec.max_restarts:
        return f"{signals.lost} replicas of the candidate were lost, more than {spec.max_restarts}"
    return None


def _failed(spec: RolloutSpec, signals: Signals, findings: Mapping[str, Finding]) -> Conclusion | None:
    failed = [gate for gate in spec.judged if findings[gate.name].verdict is Verdict.FAIL]
    critical = [gate for gate in failed if gate.severity is Severity.CRITICAL]
    for gate in [*critical, *failed]:
        why = f"{gate.name} failed: {findings[gate.name].reason}"
        if gate.severity is Severity.CRITICAL or spec.on_fail is OnFail.ROLLBACK:
            return Conclusion(action=Action.ROLL_BACK, reason=Reason.GATE_FAILED, gate=gate.name, why=why)
        action = Action.HOLD if signals.phase is Phase.PAUSED else Action.PAUSE
        return Conclusion(action=action, reason=Reason.GATE_FAILED, gate=gate.name, why=why)
    return None


def _pending(spec: RolloutSpec, signals: Signals, progress: Progress) -> Conclusion:
    if signals.serving and signals.confirmed:
        first = next(step.weight for step in spec.steps if step.weight is not None)
        return Conclusion(
            action=Action.ADVANCE,
            reason=Reason.STEP_TAKEN,
            why=f"{signals.serving} replicas of the candidate serve; its first weight is {percent(first)}",
        )
    if signals.serving:
        return _hold(signals.unconfirmed or WEBHOOK)
    waits_for = "no replica of the candidate serves yet"
    if progress.undecided_s >= spec.start_deadline.total_seconds():
        return _take_back(Reason.CANDIDATE_DOWN, f"{waits_for}, after {written(spec.start_deadline)}")
    return _hold(waits_for)


def _waits_for(
    spec: RolloutSpec, step: Step, signals: Signals, progress: Progress, findings: Mapping[str, Finding]
) -> str | None:
    if step.approve:
        return None if signals.approved >= signals.step else "a person's approval"
    behind = [name for name, revision in signals.gateways.items() if revision < signals.revision]
    if behind or not signals.gateways:
        return f"{len(behind)} of {len(signals.gateways)} gateways have not taken up the weight yet"
    if absent := _absent(spec, step, signals):
        return absent
    undecided = _without_verdict(_undecided(spec, step, findings), progress, findings)
    if progress.watched_s < step.at_least_s:
        rest = step.at_least_s - progress.watched_s
        return ", and ".join([f"{rest:.0f} s of {step.at_least_s:g} s are left to hold", *undecided])
    if undecided:
        return undecided[0]
    return None if signals.confirmed else (signals.unconfirmed or WEBHOOK)


def _absent(spec: RolloutSpec, step: Step, signals: Signals) -> str:
    if not signals.serving:
        return "no replica of the candidate serves"
    if spec.baseline is Baseline.FRESH and (step.weight or 0) < HALF and not signals.fresh:
        return f"no fresh replica of stable serves: {signals.no_fresh}"
    return ""


def _is_enough(gate: Gate, step: Step, finding: Finding) -> bool:
    # At 100% nobody is left to compare with; that it answers is seen all the same.
    if step.weight == 100 and gate.needs_answers_of_baseline:
        return finding.samples >= gate.min_samples
    return finding.verdict is Verdict.PASS


def _without_verdict(missing: list[Gate], progress: Progress, findings: Mapping[str, Finding]) -> list[str]:
    """Why there is none yet, whatever the gates are; empty once there is one."""
    if missing:
        return [_missing(missing, findings)]
    return [] if progress.answered else [NO_TRAFFIC]


def _missing(gates: list[Gate], findings: Mapping[str, Finding]) -> str:
    most = max(gates, key=lambda gate: findings[gate.name].missing or 0)
    about = findings[most.name].missing
    answers = f", about {about} more answers of the candidate" if about else ""
    others = f" and {len(gates) - 1} more" if len(gates) > 1 else ""
    return f"{most.name} is inconclusive{others}: {findings[most.name].reason}{answers}"


def _onward(spec: RolloutSpec, signals: Signals) -> Conclusion:
    if signals.step + 1 == len(spec.steps):
        return Conclusion(
            action=Action.PROMOTE, reason=Reason.PROMOTED, why="all steps are done and no gate has failed"
        )
    step = spec.steps[signals.step]
    why = "approved" if step.approve else f"all {len(spec.judged)} gates pass at {percent(step.weight or 0)}"
    return Conclusion(action=Action.ADVANCE, reason=Reason.STEP_TAKEN, why=why)


def is_decided(
    spec: RolloutSpec, signals: Signals, progress: Progress, findings: Mapping[str, Finding]
) -> bool:
    """Whether no verdict is missing: whatever else the step waits for, its deadline does not run.

    Before the first step that is the candidate's first replica.
    """
    if signals.step < 0:
        return signals.serving > 0
    step = spec.steps[signals.step]
    return step.approve or bool(progress.answered and not _undecided(spec, step, findings))


def _undecided(spec: RolloutSpec, step: Step, findings: Mapping[str, Finding]) -> list[Gate]:
    return [gate for gate in spec.judged if not _is_enough(gate, step, findings[gate.name])]


def _hold(why: str) -> Conclusion:
    return Conclusion(action=Action.HOLD, why=why)


def _take_back(reason: Reason, why: str) -> Conclusion:
    return Conclusion(action=Action.ROLL_BACK, reason=reason, why=why)
