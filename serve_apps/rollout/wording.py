"""Plans, results and decisions in words and rows, for the command line."""

from __future__ import annotations

from typing import Any

from cluster.state.tables import EventRow
from cluster.traffic import TrafficPolicy
from serve_apps.rollout.service import Applied, Explanation, Plan
from serve_apps.rollout.states import percent

_ABSENT = "(absent)"


def lines(plan: Plan) -> list[str]:
    """What a plan changes: each version's weight, then each alias, from and to."""
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
    return [*weights, *moves] or [f"{model}  no weight and no alias moves"]


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
        "warning": applied.warning if applied else "",
    }


def history_row(event: EventRow) -> dict[str, Any]:
    """One event; `decision` and `rollout` are None for an alias move, which its decision precedes."""
    return {
        "at": event.at,
        "kind": event.kind,
        "rollout": event.detail.get("rollout"),
        "decision": event.detail.get("decision"),
        "sentence": event.sentence,
        "actor": event.actor,
        "reason": event.reason,
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
        ["recomputed", "the same"],
    ]


def _shares(policy: TrafficPolicy | None) -> dict[str, float]:
    return policy.weights() if policy else {}


def _pairs(value: Any) -> str:
    if not isinstance(value, dict):
        return "" if value is None else str(value)
    return ", ".join(
        f"{key}=({_pairs(inner)})" if isinstance(inner, dict) else f"{key}={inner}"
        for key, inner in value.items()
    )
