"""One look: from what was known and what has been seen to what is known, found, and to be done. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from cluster.config import StrictModel
from serve_apps.rollout import compact, replica_gates
from serve_apps.rollout.conclusion import Conclusion, conclude, is_decided
from serve_apps.rollout.gate_spec import Gate
from serve_apps.rollout.judge.evidence import begin, update
from serve_apps.rollout.judge.finding import Finding, Verdict, finding, untested
from serve_apps.rollout.judge.shown import Sketches
from serve_apps.rollout.judge.terms import QUANTILES, Test
from serve_apps.rollout.looks import Counted, LookInputs, Progress, Shown, Signals, Strata, Told
from serve_apps.rollout.outside.verdict import Answer
from serve_apps.rollout.questions import increment, is_tested, tests
from serve_apps.rollout.resuming import resumed
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.rollout.states import Phase

LONGEST_GAP_S = 60.0
"""What counts of the time between two looks at most: a clock that jumps, or a controller that was away,
holds no step for those who did not look."""


class Outcome(StrictModel):
    """What came of a look, as it is stored."""

    findings: dict[str, Finding]
    conclusion: Conclusion


def look(spec: RolloutSpec, before: Progress, inputs: LookInputs) -> tuple[Progress, Outcome]:
    """The same whenever it is done: no clock, no store, no chance."""
    asked = tests(spec)
    step = max(inputs.signals.step, 0)
    before = resumed(spec, asked, before, inputs.signals)
    inputs = inputs.model_copy(update={"told": _once(before, inputs.told)})
    progress = _timed(before, inputs)
    evidence = {
        gate.name: update(
            before.evidence.get(gate.name) or begin(asked[gate.name], step),
            asked[gate.name],
            increment(gate, asked[gate.name], inputs.counted, before.past, inputs.told.get(gate.name)),
            step=step,
            now=inputs.at.replace(tzinfo=UTC).timestamp(),
        )
        for gate in spec.gates
        if is_tested(gate)
    }
    quantities = {gate.metric for gate in spec.gates if gate.quantile is not None and gate.metric}
    news = {name: told.answer for name, told in inputs.told.items() if told.answer is not None}
    progress = progress.model_copy(
        update={
            "answered": progress.answered + _answered(inputs),
            "evidence": evidence,
            "past": _past(before.past, inputs.counted, quantities),
            "shown": _shown(progress.shown, inputs.counted, quantities),
            "answers": {**before.answers, **news},
            "rounds": {**before.rounds, **_rounds(inputs)},
            "missing": {**before.missing, **{name: told.missing for name, told in inputs.told.items()}},
        }
    )
    findings = {gate.name: _find(gate, asked.get(gate.name), progress, inputs.signals) for gate in spec.gates}
    if is_decided(spec, inputs.signals, progress, findings):
        progress = progress.model_copy(update={"decided_s": progress.watched_s})
    return progress, Outcome(findings=findings, conclusion=conclude(spec, inputs.signals, progress, findings))


def _timed(before: Progress, inputs: LookInputs) -> Progress:
    """With the time since the last look, or with none where the step is a new one."""
    if before.step != inputs.signals.step or before.looked_at is None:
        new = {"step": inputs.signals.step, "watched_s": 0.0, "decided_s": 0.0, "answered": 0, "shown": {}}
        return before.model_copy(update={"looked_at": inputs.at, **new})
    gap = min(max(_seconds(before.looked_at, inputs.at), 0.0), LONGEST_GAP_S)
    if inputs.signals.phase is Phase.PAUSED:
        # Else a rollout that goes on after a long pause would be late at once.
        gap = 0.0
    return before.model_copy(update={"looked_at": inputs.at, "watched_s": before.watched_s + gap})


def _answered(inputs: LookInputs) -> int:
    """Those that come late from an earlier step say nothing of this one's traffic."""
    now = [one for one in inputs.counted if one.revision >= inputs.signals.revision]
    return sum(one.candidate.counts.get("requests", 0) for one in now)


def _once(before: Progress, told: Mapping[str, Told]) -> dict[str, Told]:
    """Without rounds that have been judged already: their questions would be bet on twice."""
    due = before.rounds
    return {name: one for name, one in told.items() if one.round is None or one.round == due.get(name, 0)}


def _rounds(inputs: LookInputs) -> dict[str, int]:
    return {name: told.round + 1 for name, told in inputs.told.items() if told.round is not None}


def _seconds(begin_at: datetime, end: datetime) -> float:
    return (end - begin_at).total_seconds()


def _past(
    before: Mapping[str, Strata], counted: Iterable[Counted], quantities: Iterable[str]
) -> dict[str, Strata]:
    past = {metric: dict(strata) for metric, strata in before.items()}
    for one in counted:
        for metric in quantities:
            strata = past.setdefault(metric, {})
            for stratum, sketch in one.baseline.sketches.get(metric, {}).items():
                strata[stratum] = compact.merged(strata.get(stratum), sketch)
    return past


def _shown(
    before: Mapping[str, Shown], counted: Iterable[Counted], quantities: Iterable[str]
) -> dict[str, Shown]:
    shown = {metric: before.get(metric, Shown()) for metric in quantities}
    for one in counted:
        for metric in quantities:
            ours, theirs = (side.sketches.get(metric, {}).values() for side in (one.candidate, one.baseline))
            so_far = shown[metric]
            shown[metric] = Shown(
                candidate=compact.merged(so_far.candidate, *ours),
                baseline=compact.merged(so_far.baseline, *theirs),
            )
    return shown


def _find(gate: Gate, test: Test | None, progress: Progress, signals: Signals) -> Finding:
    if test is not None:
        shown = progress.shown.get(gate.metric or "")
        sketches = Sketches(compact.read(shown.candidate), compact.read(shown.baseline)) if shown else None
        found = finding(progress.evidence[gate.name], test, sketches if test.kind in QUANTILES else None)
        missing = progress.missing.get(gate.name)
        return found.model_copy(update={"reason": missing}) if missing and not found.samples else found
    if gate.metric is not None:
        return replica_gates.find(gate, signals, forgiven=progress.forgiven)
    answer = progress.answers.get(gate.name)
    if answer is None:
        answer = Answer(verdict="inconclusive", reason="it has not answered yet")
    return untested(Verdict(answer.verdict.value), answer.reason)
