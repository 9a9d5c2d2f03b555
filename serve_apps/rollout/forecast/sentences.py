"""What a forecast comes to, in sentences: steps that would never end, and which knob to turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from serve_apps.rollout import quantities
from serve_apps.rollout.forecast.gate import GateForecast
from serve_apps.rollout.gate_spec import Gate, Source
from serve_apps.rollout.metrics import METRICS
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.rollout.units import written

if TYPE_CHECKING:
    from serve_apps.rollout.forecast.planning import StepForecast

LONG = timedelta(hours=24)
"""A step that takes longer deserves a word."""


def sentences(
    spec: RolloutSpec, steps: Sequence[StepForecast], per_second: float, stable: str
) -> Iterator[str]:
    """One a thing that a person should know before the rollout begins."""
    if not per_second:
        yield (
            "Without requests nothing can be judged: each step would hold. Give --requests-per-second to "
            "plan for the traffic that you expect."
        )
        return
    gates = {gate.name: gate for gate in spec.gates}
    told: set[str] = set()
    for step in steps:
        for found in step.gates:
            if found.is_never and found.gate not in told:
                told.add(found.gate)
                yield _never(step, found, gates[found.gate], stable)
        yield from _long(spec, step)
    if spec.match:
        yield (
            "`match` leaves an unknown part of the requests; give that part with --requests-per-second for "
            "times that hold for it."
        )


def _never(step: StepForecast, found: GateForecast, gate: Gate, stable: str) -> str:
    begin = f"Step {step.number} ({step.what}) would never end: {found.gate}"
    if gate.source is Source.SHADOW and not found.per_second:
        return (
            f"{begin} counts pairs, and nothing is copied at it: leave `when: thin` out of `shadow`, or "
            "begin with a smaller weight."
        )
    if gate.data is not None:
        return f"{begin} needs more pairs than its set has: take a larger one, or a larger `max_drop`."
    if gate.max is not None or gate.min is not None:
        return f"{begin} does not hold for {stable} itself, which is beyond the limit: choose another limit."
    if quantities.is_of_pairs(gate):
        return f"{begin} tells no difference of pairs at this limit: allow more points."
    return f"{begin} finds nothing to compare: give it `tolerate`, or a larger weight."


def _long(spec: RolloutSpec, step: StepForecast) -> Iterator[str]:
    if step.seconds is None or step.slowest is None:
        return
    gate = next(gate for gate in spec.gates if gate.name == step.slowest)
    takes = f"Step {step.number} ({step.what}) takes {quantities.span(step.seconds)} because of {gate.name}"
    if spec.deadline is not None and step.seconds > spec.deadline.total_seconds():
        yield f"{takes}, longer than the deadline of {written(spec.deadline)}: {_knobs(spec, gate)}."
    elif step.seconds > LONG.total_seconds():
        yield f"{takes}: {_knobs(spec, gate)}."


def _knobs(spec: RolloutSpec, gate: Gate) -> str:
    found = ["a larger weight brings more answers"]
    metric = METRICS[gate.metric or ""]
    if gate.max_ratio is not None and gate.quantile is None:
        more = "`tolerate`" if gate.tolerate is None else "a larger `tolerate`"
        found.append(f"{more} passes a rate that is low, whatever stable's is")
    if metric.exposure.endswith("texts") and gate.source is not Source.SHADOW:
        shadow = "" if spec.shadow is not None else " with `shadow` on"
        found.append(f"`source: shadow`{shadow} judges it by pairs, whatever the weight is")
    if quantities.is_of_pairs(gate):
        found = ["a larger `sample` brings more pairs"]
    return "; ".join(found)
