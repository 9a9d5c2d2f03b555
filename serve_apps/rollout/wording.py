"""Plans, results and decisions in words and rows, for the command line."""

from __future__ import annotations

from typing import Any

from cluster.traffic import TrafficPolicy
from serve_apps.rollout import quantities
from serve_apps.rollout.gate_spec import Severity
from serve_apps.rollout.service import Applied, Explanation, Plan
from serve_apps.rollout.spec import Baseline, OnFail, RolloutSpec, Step
from serve_apps.rollout.states import percent
from serve_apps.rollout.units import written

_ABSENT = "(absent)"


def lines(plan: Plan) -> list[str]:
    """What a plan changes: weights, then aliases, from and to; and what a policy would do from there."""
    model, before, after = plan.command.model, _shares(plan.situation.policy), plan.decision.policy.weights()
    versions = dict.fromkeys([*before, *after])
    weights = [
        f"{model}:{version}  weight {percent(before.get(version, 0))} -> {percent(after.get(version, 0))}"
        for version in versions
        if before.get(version, 0) != after.get(version, 0)
    ]
    moves = [
        f"{model}@{move.alias}  {move.before or _ABSENT} -> {move.after or _ABSENT}"
        for move in plan.decision.aliases
    ]
    ends = (
        [f"{model}:{plan.decision.replaced.candidate}  taken back from its rollout, as superseded"]
        if plan.decision.replaced is not None
        else []
    )
    changes = [*ends, *weights, *moves, *(_policy(plan.spec) if plan.spec is not None else [])]
    if plan.warning:
        changes.append(f"mind: {plan.warning}")
    return changes or [f"{model}  no weight and no alias moves"]


def _policy(spec: RolloutSpec) -> list[str]:
    """One line a part."""
    on_fail = {OnFail.ROLLBACK: "taken back", OnFail.PAUSE: "paused"}[spec.on_fail]
    gates = [
        f"gate: {gate.name}{_with(quantities.limit(gate))}"
        + ("" if gate.severity is Severity.NORMAL else f", {gate.severity.value}")
        for gate in spec.gates
    ]
    return [
        f"steps: {' -> '.join(_step(step) for step in spec.steps)}",
        *gates,
        *(["compared with fresh replicas of stable"] if spec.baseline is Baseline.FRESH else []),
        f"when a gate fails, it is {on_fail}; one that is no worse, with a chance of {spec.alpha:g} at most",
        f"its first replica must serve within {written(spec.start_deadline)}",
    ]


def _with(limit: str) -> str:
    return f": {limit}" if limit else ""


def _step(step: Step) -> str:
    if step.weight is None:
        return "approval"
    held = step.soak or step.hold
    return percent(step.weight) + (f" for {written(held)}" if held is not None else "")


def detail(plan: Plan, applied: Applied | None) -> dict[str, Any]:
    """The `detail` of a mutation's JSON; ids are None until the plan has been applied."""
    decision = plan.decision
    return {
        "rollout": applied.rollout_id if applied else decision.rollout.id,
        "decision": applied.decision_id if applied else None,
        "phase": decision.rollout.phase,
        "reason": decision.rollout.reason,
        "revision": decision.policy.revision,
        "weights_before": _shares(plan.situation.policy),
        "weights": decision.policy.weights(),
        "aliases": [move.model_dump() for move in decision.aliases],
        "sentence": decision.sentence,
        "policy": None if plan.spec is None else plan.spec.stored(),
        "warning": "; ".join(filter(None, [plan.warning, applied.warning if applied else ""])),
    }


def explanation_rows(explanation: Explanation) -> list[list[str]]:
    """The inputs that were compared and what they gave, then and now."""
    return [
        ["command", _pairs(explanation.command)],
        ["actor", explanation.actor],
        ["reason", explanation.reason],
        *([name.replace("_", " "), _pairs(value)] for name, value in explanation.situation.items()),
        ["decided", explanation.outcome["sentence"]],
        ["policy", _pairs(explanation.outcome["policy"])],
        *_looked(explanation),
        ["recomputed", "the same"],
    ]


def _looked(explanation: Explanation) -> list[list[str]]:
    if explanation.look is None:
        return []
    concluded = explanation.look["conclusion"]["why"]
    return [["looks", f"{explanation.looks} done again; the last one: {concluded}"]]


def _shares(policy: TrafficPolicy | None) -> dict[str, float]:
    return policy.weights() if policy else {}


def _pairs(value: Any) -> str:
    if not isinstance(value, dict):
        return "" if value is None else str(value)
    return ", ".join(
        f"{key}=({_pairs(inner)})" if isinstance(inner, dict) else f"{key}={inner}"
        for key, inner in value.items()
    )
