"""A forecast for people."""

from __future__ import annotations

import sys

from cluster.cli import output
from serve_apps.rollout import quantities
from serve_apps.rollout.forecast.gate import GateForecast
from serve_apps.rollout.forecast.planning import Forecast, StepForecast, about


def show(found: Forecast) -> None:
    """Write all of it to stdout."""
    total = (
        f"about {quantities.span(found.seconds)} to 100%, if it is as {found.stable} is"
        if found.seconds is not None
        else "never at 100%"
    )
    sys.stdout.write(
        f"{found.model}:{found.candidate} beside {found.stable}: {len(found.steps)} steps, {total}\n"
        f"{_basis(found)}\n\n"
    )
    output.table(["step", "weight", "at_least", "takes", "waits_for"], [_step(step) for step in found.steps])
    if found.requests_per_second:
        _show_gates(found)
    for sentence in found.sentences:
        sys.stdout.write(f"\n{sentence}\n")


def _show_gates(found: Forecast) -> None:
    sys.stdout.write("\n")
    output.table(
        ["step", "gate", "passes after", "", "fails at", "after", "", "sees from", ""],
        [_gate(step, gate) for step in found.steps for gate in step.gates],
    )


def _basis(found: Forecast) -> str:
    rate = f"{found.requests_per_second:.3g} requests/s" + (" as given" if found.given else "")
    if not found.answers:
        return f"{rate}; nothing is known of how {found.stable} answers"
    of = f"{found.answers:,} answers of {found.stable} in {found.source}"
    return f"{rate}, {of}" if not found.given else f"{rate}; {of}"


def _step(step: StepForecast) -> list[str]:
    if step.weight is None:
        return [str(step.number), "", "", "", step.what]
    held = quantities.span(step.at_least_s) if step.at_least_s else ""
    return [str(step.number), step.what, held, about(step.seconds), step.slowest or ""]


def _gate(step: StepForecast, gate: GateForecast) -> list[str]:
    known = gate.samples_to_pass is not None or gate.samples_to_fail is not None or gate.is_never
    return [
        f"{step.number} {step.what}",
        gate.gate,
        _samples(gate.samples_to_pass, gate) if known else "",
        about(gate.seconds_to_pass) if known else "",
        gate.bad,
        _samples(gate.samples_to_fail, gate) if known else "",
        about(gate.seconds_to_fail) if known else "",
        gate.smallest,
        gate.note,
    ]


def _samples(n: int | None, gate: GateForecast) -> str:
    return "" if n is None else f"{n:,} {gate.samples_are}"
