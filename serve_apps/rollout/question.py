"""From a gate of the YAML to the question that the judge answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from serve_apps.rollout.judge.terms import Direction, Kind, Test
from serve_apps.rollout.metrics import LOGPROB, METRICS
from serve_apps.rollout.metrics import Kind as MetricKind

if TYPE_CHECKING:
    from serve_apps.rollout.gate_spec import Gate


def question(gate: Gate, alpha: float) -> Test:
    """Of a gate that the judge decides. Raises ValidationError for a limit that cannot be judged."""
    asked = _of_pairs(gate) or _of_baseline(gate) or _of_itself(gate)
    return Test(min_samples=gate.min_samples, alpha=alpha, **asked)


def _of_pairs(gate: Gate) -> dict[str, Any] | None:
    if gate.max_drop is not None:
        return {"kind": Kind.PAIRED, "limit": gate.max_drop, "direction": Direction.LOWER}
    if gate.max_increase is not None:
        return {"kind": Kind.PAIRED, "limit": gate.max_increase}
    return None


def _of_baseline(gate: Gate) -> dict[str, Any] | None:
    ratio = gate.max_ratio if gate.max_ratio is not None else gate.min_ratio
    if ratio is None:
        return None
    if _is_rate(gate):
        return {"kind": Kind.RATIO, "limit": ratio, "tolerate": gate.tolerate}
    ratio = 1 / ratio if gate.metric == LOGPROB else ratio
    return {"kind": Kind.QUANTILE_RATIO, "limit": ratio, **_place(gate)}


def _of_itself(gate: Gate) -> dict[str, Any]:
    if gate.for_ is not None:
        # Of a quantity, the share that lies beyond its limit; more of that is worse either way.
        return {"kind": Kind.THRESHOLD, "limit": _share(gate), "duration_s": gate.for_.total_seconds()}
    if _is_rate(gate):
        return {"kind": Kind.RATE, "limit": gate.absolute()}
    below_zero = gate.metric == LOGPROB
    limit = limit_of_values(gate)
    return {"kind": Kind.QUANTILE_LIMIT, "limit": limit, "below_zero": below_zero, **_place(gate)}


def worse(gate: Gate) -> Direction:
    """Which way values are worse, as sketches hold them: a log-probability as its distance from certainty."""
    if gate.metric == LOGPROB:
        return Direction.HIGHER
    lower = gate.min is not None or gate.min_ratio is not None
    return Direction.LOWER if lower else Direction.HIGHER


def limit_of_values(gate: Gate) -> float:
    """`max` or `min` as sketches hold it."""
    return -gate.absolute() if gate.metric == LOGPROB else gate.absolute()


def _is_rate(gate: Gate) -> bool:
    return METRICS[gate.metric or ""].kind is MetricKind.RATE


def _place(gate: Gate) -> dict[str, Any]:
    at = gate.quantile
    return {"direction": worse(gate), "quantile": 1 - at if at and gate.metric == LOGPROB else at}


def _share(gate: Gate) -> float:
    if gate.quantile is None:
        return gate.absolute()
    return gate.quantile if gate.min is not None else 1 - gate.quantile
