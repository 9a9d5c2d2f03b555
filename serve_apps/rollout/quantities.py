"""Effects and limits of gates in the units that people think in, and spans of time."""

from __future__ import annotations

from serve_apps.rollout.gate_spec import Gate
from serve_apps.rollout.judge.finding import Finding
from serve_apps.rollout.metrics import LOGPROB, METRICS, Kind, Unit
from serve_apps.rollout.units import written

_SUFFIX = {Unit.TOKENS: " tokens", Unit.TOKENS_PER_S: " tokens/s", Unit.NATS: " nats"}


def in_unit(gate: Gate, value: float) -> str:
    """What a finding measures: times the baseline's, a share, points, or the metric's own unit."""
    if gate.max_ratio is not None or gate.min_ratio is not None:
        return f"{value:.3g}x"
    if gate.max_drop is not None or gate.max_increase is not None:
        return f"{100 * value:.3g} points"
    if gate.for_ is not None:
        return percent(value)
    return of_metric(gate, value)


def of_metric(gate: Gate, value: float) -> str:
    """A value of the gate's metric itself."""
    unit = METRICS[gate.metric].unit if gate.metric is not None else Unit.NUMBER
    if unit is Unit.SHARE:
        return percent(value)
    if unit is Unit.SECONDS:
        return f"{1000 * value:.3g} ms" if value < 1 else f"{value:.3g} s"
    if unit is Unit.BYTES:
        return memory(value)
    return f"{value:.3g}{_SUFFIX.get(unit, '')}"


def measured(gate: Gate, finding: Finding) -> str:
    """`1.08x (0.97 to 1.31)`; empty where nothing is known."""
    if finding.effect is None:
        return ""
    low, high = (
        None if end is None else in_unit(gate, end).removesuffix("x") for end in _interval(gate, finding)
    )
    effect = in_unit(gate, -finding.effect if _is_distance(gate) else finding.effect)
    if low is None:
        return effect if high is None else f"{effect} (at most {high})"
    return f"{effect} (at least {low})" if high is None else f"{effect} ({low} to {high})"


def mirrored(low: float | None, high: float | None) -> tuple[float | None, float | None]:
    """The same interval of the values with the other sign; None is an end that is not known."""
    return None if high is None else -high, None if low is None else -low


def _interval(gate: Gate, finding: Finding) -> tuple[float | None, float | None]:
    found = finding.low, finding.high
    return mirrored(*found) if _is_distance(gate) else found


def _is_distance(gate: Gate) -> bool:
    """Findings hold a log-probability as its distance from certainty."""
    return gate.metric == LOGPROB and (gate.min is not None or gate.max is not None) and gate.for_ is None


def limit(gate: Gate) -> str:
    """The gate's limit as a clause: `at most 1.5x`; empty for gates that somebody outside decides."""
    if gate.metric is None:
        return ""
    lower = gate.min is not None or gate.min_ratio is not None
    span = "" if gate.for_ is None else f" for {written(gate.for_)}"
    ratio = gate.max_ratio if gate.max_ratio is not None else gate.min_ratio
    points = gate.max_drop if gate.max_drop is not None else gate.max_increase
    if ratio is not None:
        bound = f"{ratio:g}x"
    elif points is not None:
        bound = f"{100 * points:g} points"
    else:
        bound = of_metric(gate, gate.absolute())
    return f"at {'least' if lower else 'most'} {bound}{span}"


def percent(share: float) -> str:
    """Three digits: `1.23%`."""
    return f"{100 * share:.3g}%"


def memory(held: float) -> str:
    """Bytes as people read them: `4.213 GiB`, `831 MiB`."""
    return f"{held / 2**20:.3g} MiB" if held < 1000 * 2**20 else f"{held / 2**30:.4g} GiB"


def span(seconds: float) -> str:
    """About so long: `42 s`, `12 min`, `3.5 h`, `2.1 days`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def is_of_pairs(gate: Gate) -> bool:
    """Whether its samples are pairs of answers to the same prompt."""
    return gate.max_drop is not None or gate.max_increase is not None


def samples_are(gate: Gate) -> str:
    """What it counts: `answers`, `requests`, `texts` or `pairs`."""
    if is_of_pairs(gate):
        return "pairs"
    metric = METRICS[gate.metric or ""]
    if metric.kind is not Kind.RATE or metric.exposure == "requests":
        return "answers"
    return "texts" if metric.exposure.endswith("texts") else "requests"


def compares(gate: Gate, weight: float) -> bool:
    """Whether it has a baseline to compare with, or needs none: at 100% nobody gets the stable version."""
    return weight < 100 or not gate.needs_answers_of_baseline
