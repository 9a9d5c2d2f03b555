"""A rollout's status as a tree for a terminal, in the manner of `kubectl argo rollouts get rollout`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from serve_apps.endpoints import EndpointVersion
from serve_apps.rollout import propagation, quantities
from serve_apps.rollout.gate_spec import Severity
from serve_apps.rollout.judge.finding import Verdict
from serve_apps.rollout.judged_view import GateView, JudgedView, StepState, StepView
from serve_apps.rollout.pen import PLAIN, Pen, Tone
from serve_apps.rollout.states import Phase, percent
from serve_apps.rollout.view import IDLE, RolloutStatus

_PHASES = {
    Phase.PROMOTED.value: Tone.GOOD,
    Phase.ROLLED_BACK.value: Tone.BAD,
    Phase.PAUSED.value: Tone.OPEN,
}
_STEPS = {
    StepState.DONE: ("✔", Tone.GOOD),
    StepState.PRESENT: ("▶", Tone.PRESENT),
    StepState.TO_COME: ("◌", Tone.FAINT),
    StepState.ENDED: ("✖", Tone.BAD),
}
_VERDICTS = {
    Verdict.PASS: ("✔", Tone.GOOD),
    Verdict.FAIL: ("✖", Tone.BAD),
    Verdict.INCONCLUSIVE: ("?", Tone.OPEN),
}

SILENT_S = 90.0
"""A controller that lives looks each 30 s at least."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A line with those below it."""

    text: str
    below: Sequence[Branch] = ()


def tree(status: RolloutStatus, pen: Pen = PLAIN) -> list[str]:
    """Lines for a terminal: the model, its steps, versions and gates, what it waits for, its last events."""
    branches = [*_versions(status, pen)]
    if status.judged is not None:
        steps, gates = _steps(status.judged, status, pen), _gates(status.judged, pen)
        branches = [steps, *branches, gates, *_ends(status, status.judged, pen)]
    if status.taken_back is not None:
        branches.append(Branch(f"taken back: {propagation.in_words(status.taken_back)}"))
    branches.append(_events(status, pen))
    return [pen.fit(line) for line in (_headline(status, pen), *_drawn(branches))]


def _drawn(branches: Sequence[Branch], before: str = "") -> Iterator[str]:
    for index, branch in enumerate(branches):
        is_last = index == len(branches) - 1
        yield f"{before}{'└──' if is_last else '├──'} {branch.text}"
        yield from _drawn(branch.below, f"{before}{'    ' if is_last else '│   '}")


def _headline(status: RolloutStatus, pen: Pen) -> str:
    model = pen.paint(status.model, Tone.STRONG)
    if status.rollout is None:
        return f"{model}  {IDLE}, no rollout yet"
    phase = pen.paint(f"{status.phase} ({status.reason})", _PHASES.get(status.phase, Tone.PRESENT))
    return f"{model}  {phase}  rollout {status.rollout}: {status.candidate} at {percent(status.weight)}"


def _steps(judged: JudgedView, status: RolloutStatus, pen: Pen) -> Branch:
    parts = [f"step {judged.step} of {len(judged.steps)}"]
    if judged.at_step_s is not None:
        waiting = "at it" if judged.step else "waiting"
        parts.append(f"{waiting} for {quantities.span(judged.at_step_s)}")
    if judged.hold_left_s:
        parts.append(f"{quantities.span(judged.hold_left_s)} left to hold")
    if judged.looked_at is not None and judged.at_step_s is not None:
        ago = max((status.read_at - judged.looked_at).total_seconds(), 0.0)
        parts.append(f"look {judged.looks} was {quantities.span(ago)} ago")
    return Branch(", ".join(parts), [_step(step, pen) for step in judged.steps])


def _step(step: StepView, pen: Pen) -> Branch:
    sign, tone = _STEPS[step.state]
    text = f"{sign} {step.number}  {step.what}" + (f"  {step.at_least}" if step.at_least else "")
    return Branch(pen.paint(text, tone))


def _versions(status: RolloutStatus, pen: Pen) -> Iterator[Branch]:
    width = max((len(version.version) for version in status.versions), default=0)
    for version in status.versions:
        refused = status.refusals.get(version.version)
        below = [Branch(pen.paint(f"refused: {refused}", Tone.BAD))] if refused else []
        observed = ""
        if status.judged is not None and version.version == status.candidate:
            observed = _observed(status.judged)
        text = (
            f"{version.version:<{width}}  {version.role or '-':<9}  {percent(version.weight):>6}  "
            f"{_replicas(version)}{observed}"
        )
        yield Branch(text, below)


def _observed(judged: JudgedView) -> str:
    """What the gateways do, beside what is wanted of them; empty when the rollout is over."""
    if judged.at_step_s is None:
        return ""
    gateways = f", {judged.following} of {judged.gateways} gateways route so"
    if not judged.gateways:
        gateways = ", no gateway was heard lately"
    if judged.observed is None:
        return gateways
    return f"{gateways}, {judged.observed:.3g}% of {judged.requests:,} requests observed"


def _replicas(version: EndpointVersion) -> str:
    counted = ", ".join(f"{count} {status}" for status, count in sorted(version.replicas.items()))
    return f"replicas: {counted or 'none'}"


def _gates(judged: JudgedView, pen: Pen) -> Branch:
    widths = _widths(judged.gates)
    return Branch(
        "gates" if judged.gates else "no gates", [_gate(gate, widths, pen) for gate in judged.gates]
    )


def _cells(gate: GateView) -> tuple[str, ...]:
    samples = f"{gate.samples:,} {gate.samples_are}" if gate.samples_are else ""
    return (gate.gate, gate.verdict.value, samples, gate.measured or "-", gate.limit)


def _widths(gates: Iterable[GateView]) -> list[int]:
    rows = [_cells(gate) for gate in gates if gate.samples_are] or [("",) * 5]
    return [max(len(row[column]) for row in rows) for column in range(5)]


def _gate(gate: GateView, widths: Sequence[int], pen: Pen) -> Branch:
    sign, tone = _VERDICTS[gate.verdict]
    name, verdict, samples, shown, limit = _cells(gate)
    head = f"{pen.paint(sign, tone)} {name:<{widths[0]}}  {pen.paint(f'{verdict:<12}', tone)}"
    if not gate.samples_are:
        return Branch(f"{head}  {gate.reason}")
    info = "  for information" if gate.severity == Severity.INFO.value else ""
    text = f"{head}  {samples:>{widths[2]}}  {shown:<{widths[3]}}  {limit:<{widths[4]}}{info}"
    below = [Branch(pen.paint(f"for reading: {gate.for_reading}", Tone.FAINT))] if gate.for_reading else []
    return Branch(f"{text}{_missing(gate, pen)}".rstrip(), below)


def _missing(gate: GateView, pen: Pen) -> str:
    if not gate.compares:
        return "  nobody is left to compare with"
    if gate.verdict is not Verdict.INCONCLUSIVE:
        return ""
    if not gate.missing:
        return "" if not gate.samples else pen.paint("  no verdict in sight", Tone.OPEN)
    seconds = f", ≈{quantities.span(gate.missing_s)} at this traffic" if gate.missing_s is not None else ""
    return pen.paint(f"  ≈{gate.missing:,} more {gate.samples_are}{seconds}", Tone.OPEN)


def _ends(status: RolloutStatus, judged: JudgedView, pen: Pen) -> Iterator[Branch]:
    if judged.shadow is not None:
        shadow = judged.shadow
        state = "on" if shadow.on else "off at this weight"
        yield Branch(
            f"shadow {state}: {quantities.percent(shadow.sample)} of stable's requests, "
            f"{shadow.copies:,} copied at this step, {shadow.failed:,} without an answer"
        )
    if judged.at_step_s is None:
        if judged.looks:
            yield Branch(f"last look: {judged.waits_for}")
        return
    if _is_alone(status, judged):
        yield Branch(pen.paint("nobody looks: is the application `rollouts` deployed?", Tone.BAD))
    waits_for = "`resume`, `promote` or `abort`" if status.phase == Phase.PAUSED.value else judged.waits_for
    yield Branch(f"waits for {waits_for}")


def _is_alone(status: RolloutStatus, judged: JudgedView) -> bool:
    """Whether the controller should have looked since."""
    if judged.looked_at is None:
        return (judged.at_step_s or 0.0) > SILENT_S
    return (status.read_at - judged.looked_at).total_seconds() > SILENT_S


def _events(status: RolloutStatus, pen: Pen) -> Branch:
    below = []
    for event in status.events:
        why = f" ({event.reason})" if event.reason else ""
        at = pen.paint(f"{event.at:%Y-%m-%d %H:%M:%S}", Tone.FAINT)
        below.append(Branch(f"{at}  {event.sentence}  by {event.actor}{why}"))
    return Branch("events" if below else "no events", below)
