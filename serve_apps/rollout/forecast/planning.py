"""How long a rollout by a policy would take at today's traffic, and what it would see at each step. Pure.

On the way of the mean: about half of the rollouts are quicker. It supposes that the candidate equals stable,
but where it says how long a worse one takes to fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cluster.config import StrictModel
from cluster.traffic import HALF
from serve_apps.rollout import quantities
from serve_apps.rollout.forecast.gate import GateForecast, Setting, forecast_gate
from serve_apps.rollout.forecast.sentences import sentences
from serve_apps.rollout.forecast.today import Today
from serve_apps.rollout.spec import RolloutSpec, Step
from serve_apps.rollout.states import percent


class StepForecast(StrictModel):
    """`seconds` is None for a step that would never end, or waits for a person.

    `slowest`: the gate that it waits for, where it takes longer than the step is held.
    """

    number: int
    what: str
    weight: float | None
    at_least_s: float
    seconds: float | None
    slowest: str | None
    gates: tuple[GateForecast, ...]


class Forecast(StrictModel):
    """`seconds`: until the candidate is stable, without the time that people take; None for never.

    `requests_per_second` of the model, as they were `given` or counted in `source`, which holds
    `answers` of stable.
    """

    model: str
    candidate: str
    stable: str
    requests_per_second: float
    given: bool
    answers: int
    source: str
    seconds: float | None
    steps: tuple[StepForecast, ...]
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rollout:
    """Whose it would be."""

    model: str
    candidate: str
    stable: str


def forecast(
    spec: RolloutSpec,
    today: Today,
    rollout: Rollout,
    *,
    per_second: float | None = None,
    questions: Mapping[str, int] | None = None,
    no_fresh: str = "",
) -> Forecast:
    """`per_second` in place of today's requests; `questions`: how many a held-out set has, by gate.

    `no_fresh`: why no fresh replica of stable would come, with `baseline: fresh`.
    """
    rate = today.per_second if per_second is None else per_second
    steps: list[StepForecast] = []
    for step in spec.steps:
        has_begun = any(done.weight is not None for done in steps)
        setting = Setting(spec, today, rate, step, is_first=not has_begun, questions=dict(questions or {}))
        steps.append(_step(setting, step, number=len(steps) + 1))
    timed = [step.seconds for step in steps if step.weight is not None]
    total = sum(seconds or 0.0 for seconds in timed) if None not in timed else None
    return Forecast(
        model=rollout.model,
        candidate=rollout.candidate,
        stable=rollout.stable,
        requests_per_second=rate,
        given=per_second is not None,
        answers=today.answers,
        source=today.source,
        seconds=total,
        steps=tuple(steps),
        sentences=(*_of_fresh(no_fresh), *sentences(spec, steps, rate, rollout.stable)),
    )


def _of_fresh(why_none: str) -> Iterator[str]:
    if why_none:
        yield f"Steps below {percent(HALF)} would hold, since no fresh replica of stable serves: {why_none}."


def _step(setting: Setting, step: Step, number: int) -> StepForecast:
    if step.weight is None:
        return StepForecast(
            number=number,
            what="a person's approval",
            weight=None,
            at_least_s=0.0,
            seconds=None,
            slowest=None,
            gates=(),
        )
    found = [forecast_gate(setting, gate) for gate in setting.spec.gates]
    waited_for = [one for one in found if one.waited_for]
    slowest = max(waited_for, key=_seconds, default=None)
    seconds: float | None = step.at_least_s
    if any(one.is_never for one in waited_for):
        seconds = None
    elif slowest is not None:
        seconds = max(step.at_least_s, _seconds(slowest))
    length = step.at_least_s if seconds is None else seconds
    return StepForecast(
        number=number,
        what=percent(step.weight),
        weight=step.weight,
        at_least_s=step.at_least_s,
        seconds=seconds,
        slowest=slowest.gate if slowest is not None and _seconds(slowest) > step.at_least_s else None,
        gates=tuple(one.seen_within(setting, length) for one in found),
    )


def _seconds(found: GateForecast) -> float:
    if found.is_never:
        return float("inf")
    return found.seconds_to_pass or 0.0


def about(seconds: float | None) -> str:
    """`12 min`, or `never`."""
    return "never" if seconds is None else quantities.span(seconds)
