"""Gates of replicas: plain counts of this moment, which need no test."""

from __future__ import annotations

from serve_apps.rollout import quantities
from serve_apps.rollout.gate_spec import Gate
from serve_apps.rollout.judge.finding import Finding, Verdict, untested
from serve_apps.rollout.looks import Signals
from serve_apps.rollout.metrics import MEMORY, METRICS, Kind


def is_of_losses(gate: Gate) -> bool:
    """Whether it counts lost replicas."""
    return gate.metric is not None and METRICS[gate.metric].kind is Kind.REPLICA and gate.metric != MEMORY


def find(gate: Gate, signals: Signals, *, forgiven: int = 0) -> Finding:
    """What a gate on `restarts` or `memory` finds; so many losses are `forgiven`."""
    if gate.metric != MEMORY:
        return _restarts(gate, max(signals.lost - forgiven, 0))
    if signals.memory is None:
        told = "has not told its memory yet" if signals.serving else "serves"
        whose = "a" if signals.serving else "no"
        return untested(Verdict.INCONCLUSIVE, f"{whose} replica of the candidate {told}")
    if gate.max_ratio is None:
        return _memory(gate, signals.memory)
    if not signals.stable_memory:
        return untested(Verdict.INCONCLUSIVE, "no replica of stable has told its memory to compare with")
    return _memory_beside(gate.max_ratio, signals.memory, signals.stable_memory)


def _restarts(gate: Gate, lost: int) -> Finding:
    limit = gate.absolute()
    reason = f"{lost} replicas of the candidate were lost, limit {limit:g}"
    return untested(_at_most(lost, limit), reason, effect=float(lost), limit=limit)


def _memory(gate: Gate, held: int) -> Finding:
    limit = gate.absolute()
    reason = f"{_largest(held)}, limit {quantities.memory(limit)}"
    return untested(_at_most(held, limit), reason, effect=float(held), limit=limit)


def _memory_beside(limit: float, held: int, stable: int) -> Finding:
    times = held / stable
    reason = f"{_largest(held)} against {quantities.memory(stable)}: {times:.3g} times, limit {limit:.3g}"
    return untested(_at_most(times, limit), reason, effect=times, limit=limit)


def _largest(held: int) -> str:
    return f"the largest replica of the candidate holds {quantities.memory(held)}"


def _at_most(found: float, limit: float) -> Verdict:
    return Verdict.FAIL if found > limit else Verdict.PASS
