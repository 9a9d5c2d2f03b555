"""One gate at one step of a rollout to come: how long to a verdict, and which worsening it sees."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from cluster.config import StrictModel
from cluster.traffic import HALF
from serve_apps.rollout import quantities
from serve_apps.rollout.forecast import copies
from serve_apps.rollout.forecast.today import Today
from serve_apps.rollout.gate_spec import Gate, Source
from serve_apps.rollout.judge.blocks import MIN_TAIL
from serve_apps.rollout.judge.planning import Baseline, Plan, Traffic, plan, smallest_worsening
from serve_apps.rollout.judge.terms import QUANTILES, Kind, Test
from serve_apps.rollout.metrics import METRICS
from serve_apps.rollout.questions import is_tested, tests
from serve_apps.rollout.spec import Baseline as ComparedWith
from serve_apps.rollout.spec import RolloutSpec, Step

ASSUMED_RATE = 0.005
"""Of stable's answers that are bad, where nobody has counted them."""

_MOST = 0.9
"""Where less of the copies than this are sent, the limit of a gateway is told."""


class GateForecast(StrictModel):
    """Of the candidate's samples (`samples_are` says of what), `per_second` at this step.

    To pass, for one that equals stable; to fail, for one that is as bad as `bad` says, which is twice the
    limit. `smallest`: the least worsening that fails within the step. None is never; `is_never` is for a
    pass that the step waits for in vain. `note` says what the numbers do not.
    """

    gate: str
    waited_for: bool
    samples_are: str = ""
    per_second: float = 0.0
    samples_to_pass: int | None = None
    seconds_to_pass: float | None = None
    bad: str = ""
    samples_to_fail: int | None = None
    seconds_to_fail: float | None = None
    smallest: str = ""
    is_never: bool = False
    note: str = ""

    def seen_within(self, setting: Setting, seconds: float) -> Self:
        """With the smallest worsening that a step of so many seconds sees."""
        gate = next(gate for gate in setting.spec.gates if gate.name == self.gate)
        sample = setting.sample(gate) if is_tested(gate) else None
        if sample is None or sample.baseline is None or not self.bad or self.samples_to_fail is None:
            return self
        if sample.test.kind is Kind.THRESHOLD:
            return self
        n = max(sample.test.min_samples, math.floor(sample.per_second * seconds))
        least = smallest_worsening(sample.test, sample.baseline, sample.traffic, n)
        return self.model_copy(update={"smallest": _in_words(gate, sample, least)})


@dataclass(frozen=True, slots=True)
class Sample:
    """What a gate would be judged by; `baseline` is None where nothing is known of it."""

    test: Test
    traffic: Traffic
    baseline: Baseline | None
    note: str = ""

    @property
    def per_second(self) -> float:
        """Samples of the candidate."""
        share = 1.0 if self.test.kind is Kind.PAIRED else self.traffic.weight / 100
        return self.traffic.per_second * share


@dataclass(frozen=True, slots=True)
class Setting:
    """A step of a policy at `per_second` requests; `is_first`: the candidate had no traffic before it."""

    spec: RolloutSpec
    today: Today
    per_second: float
    step: Step
    is_first: bool
    questions: Mapping[str, int]

    @property
    def weight(self) -> float:
        """In percent. For steps that have one."""
        return self.step.weight or 0.0

    def sample(self, gate: Gate) -> Sample:
        """What this gate, which is tested, would be judged by."""
        test, metric = tests(self.spec)[gate.name], METRICS[gate.metric or ""]
        if test.kind is Kind.PAIRED:
            return Sample(test, Traffic(self._pairs(gate), self.weight), Baseline(), self._of_pairs(gate))
        traffic = self._traffic()
        if gate.quantile is not None:
            sketch = self.today.sketches.get(metric.name)
            return Sample(test, traffic, None if sketch is None else Baseline(sketch=sketch))
        if metric.exposure.endswith("texts"):
            traffic = self._texts(metric.exposure)
        share, note, effect = self.today.shares.get(metric.name), "", 1.0
        if share is None:
            rate, note = (
                ASSUMED_RATE,
                f"if {quantities.percent(ASSUMED_RATE)} of stable's are bad: not counted yet",
            )
        else:
            # None bad in a hundred does not say that there will be none in a million.
            rate, effect = (share.bad + 0.5) / (share.n + 1), share.effect
        return Sample(test, traffic, Baseline(rate=rate, effect=effect), note)

    @property
    def baselines(self) -> float:
        """The baseline's share of the traffic in percent."""
        is_slice = self.spec.baseline is ComparedWith.FRESH and self.weight < HALF
        return self.weight if is_slice else 100 - self.weight

    def _traffic(self) -> Traffic:
        """The candidate's and the baseline's."""
        both = self.weight + self.baselines
        return Traffic(self.per_second * both / 100, 100 * self.weight / both)

    def _texts(self, exposure: str) -> Traffic:
        """A gateway looks at so many texts of each version at most."""
        asked = self.per_second
        if exposure == "json_texts" and self.today.json_share is not None:
            asked *= self.today.json_share
        most = self.spec.texts.per_second
        ours = min(asked * self.weight / 100, most)
        theirs = min(asked * self.baselines / 100, most)
        both = ours + theirs
        return Traffic(both, 100 * ours / both if both else self.weight)

    def _pairs(self, gate: Gate) -> float:
        if gate.source is Source.SHADOW:
            return copies.sent(self._offered(), self.today.sketches.get("e2el"))
        questions = self.questions.get(gate.name, 0)
        return min(gate.sample or questions, questions) / gate.every.total_seconds()

    def _offered(self) -> float:
        """Copies a second that the policy asks for."""
        shadow = self.spec.shadow
        if shadow is None or not shadow.is_on(self.weight):
            return 0.0
        return shadow.sample * self.per_second * (1 - self.weight / 100)

    def _of_pairs(self, gate: Gate) -> str:
        is_short = gate.source is Source.SHADOW and self._pairs(gate) < _MOST * self._offered()
        return f"if 1 in 10 pairs differs{', and one gateway copies' if is_short else ''}"


def forecast_gate(setting: Setting, gate: Gate) -> GateForecast:
    """Without `smallest`, for which the length of the step must be known."""
    waited_for = gate in setting.spec.judged and quantities.compares(gate, setting.weight)
    if not is_tested(gate):
        note = "at once" if gate.metric is not None else "as it answers, each few seconds"
        return GateForecast(gate=gate.name, waited_for=waited_for, note=note)
    sample = setting.sample(gate)
    common = {
        "gate": gate.name,
        "waited_for": waited_for,
        "samples_are": quantities.samples_are(gate),
        "per_second": sample.per_second,
    }
    if not quantities.compares(gate, setting.weight):
        return GateForecast(**common, note="nobody is left to compare with")
    if sample.baseline is None:
        return GateForecast(**common, note="nothing of it has been counted yet: not known")
    if sample.test.kind is Kind.PAIRED and not setting.is_first:
        return GateForecast(**common, note="its pairs count for all steps")
    if sample.test.kind is Kind.THRESHOLD:
        return _threshold(setting, gate, sample, common)
    worsening = _twice(sample)
    found = plan(sample.test, sample.baseline, sample.traffic, worsening=worsening, samples=1)
    if gate.data is not None:
        found = _in_rounds(found, gate, setting.questions.get(gate.name, 0))
    wait = _until_comparable(setting, sample)
    return GateForecast(
        **common,
        samples_to_pass=found.samples_to_pass,
        seconds_to_pass=_after(wait, found.seconds_to_pass),
        bad=_in_words(gate, sample, worsening),
        samples_to_fail=found.samples_to_fail,
        seconds_to_fail=_after(wait, found.seconds_to_fail),
        is_never=waited_for and found.seconds_to_pass is None,
        note=sample.note,
    )


def _threshold(setting: Setting, gate: Gate, sample: Sample, common: Mapping[str, object]) -> GateForecast:
    """Its duration, which goes on from step to step, and its least number of answers at each."""
    test, needed = sample.test, sample.test.min_samples
    slow = needed / sample.per_second if sample.per_second else None
    duration = (test.duration_s or 0.0) if setting.is_first else 0.0
    seconds = None if slow is None else max(duration, slow)
    is_within = _share_beyond(gate, sample) <= test.limit
    return GateForecast(
        **common,
        samples_to_pass=needed if is_within else None,
        seconds_to_pass=seconds if is_within else None,
        bad=f"beyond {quantities.limit(gate).removeprefix('at most ').removeprefix('at least ')}",
        samples_to_fail=needed,
        seconds_to_fail=None if slow is None else max(test.duration_s or 0.0, slow),
        is_never=bool(common["waited_for"]) and (seconds is None or not is_within),
        note=sample.note,
    )


def _share_beyond(gate: Gate, sample: Sample) -> float:
    """Of stable's answers now."""
    assert sample.baseline is not None
    if sample.baseline.sketch is None:
        return sample.baseline.rate or 0.0
    sketch = sample.baseline.sketch
    count = sketch.count_above if sample.test.is_higher_worse else sketch.count_below
    return count(gate.absolute()) / sketch.total


def _twice(sample: Sample) -> float:
    """Twice as bad as the limit, and as what is tolerated; measured as the limit is."""
    test, baseline = sample.test, sample.baseline
    if test.kind is Kind.RATIO and baseline is not None and baseline.rate:
        return min(2 * max(test.limit * baseline.rate, test.tolerate or 0.0), 1.0) / baseline.rate
    if test.kind in QUANTILES:
        return 2 * test.limit if test.is_higher_worse else test.limit / 2
    return min(2 * test.limit, 1.0)


def _in_words(gate: Gate, sample: Sample, worsening: float | None) -> str:
    if worsening is None:
        return ""
    test, baseline = sample.test, sample.baseline
    if test.kind is Kind.RATIO and baseline is not None and baseline.rate:
        return quantities.percent(min(worsening * baseline.rate, 1.0))
    if test.kind is Kind.QUANTILE_RATIO and baseline is not None and baseline.sketch is not None:
        value = worsening * baseline.sketch.quantile(test.quantile or 0.5)
        return f"{quantities.of_metric(gate, value)} ({worsening:.3g}x)"
    return quantities.in_unit(gate, worsening)


def _until_comparable(setting: Setting, sample: Sample) -> float:
    """A quantile of the baseline must be known before anything is compared with it."""
    if sample.test.kind is not Kind.QUANTILE_RATIO or not setting.is_first:
        return 0.0
    quantile = sample.test.quantile or 0.5
    per_second = setting.per_second * setting.baselines / 100
    return MIN_TAIL / min(quantile, 1 - quantile) / per_second if per_second else 0.0


def _in_rounds(found: Plan, gate: Gate, questions: int) -> Plan:
    """Of a held-out set a round is asked at once, then the next; one that was asked shows nothing again."""
    a_round = min(gate.sample or questions, questions)

    def seconds(samples: int | None) -> float | None:
        if samples is None or samples > questions:
            return None
        return (math.ceil(samples / a_round) - 1) * gate.every.total_seconds()

    return found.model_copy(
        update={
            "seconds_to_pass": seconds(found.samples_to_pass),
            "seconds_to_fail": seconds(found.samples_to_fail),
        }
    )


def _after(wait: float, seconds: float | None) -> float | None:
    return None if seconds is None else wait + seconds
