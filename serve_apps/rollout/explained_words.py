"""The decisions of a rollout with their arithmetic, for people."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from serve_apps.rollout import propagation
from serve_apps.rollout.explaining import Arithmetic, ExplainedDecision, ExplainedRollout

COUNTED = (
    "candidate and baseline: bad of all answers at the step; an e-value against the candidate counts "
    "over all steps, one for it at this step"
)


def show(explained: ExplainedRollout) -> None:
    """Write all of it to stdout."""
    sys.stdout.write(
        f"rollout {explained.rollout} of {explained.model}: {explained.candidate} against "
        f"{explained.stable}, {explained.looks} looks\n"
        f"{COUNTED}\n"
    )
    for decision in explained.decisions:
        _show(decision)
    if explained.taken_back is not None:
        sys.stdout.write(f"\ntaken back: {propagation.in_words(explained.taken_back)}\n")
    sys.stdout.write(
        f"\nall {len(explained.decisions)} decisions and {explained.looks} looks recompute to the same\n"
    )


def difference(explained: ExplainedRollout) -> str:
    """What does not recompute to the same."""
    decisions = [f"decision {one.decision}" for one in explained.decisions if not one.agrees]
    return ", ".join([*decisions, *(f"look {seq}" for seq in explained.differing)])


def _show(decision: ExplainedDecision) -> None:
    why = f" ({decision.reason})" if decision.reason else ""
    look = "" if decision.look is None else f", look {decision.look}"
    sys.stdout.write(
        f"\ndecision {decision.decision}{look}, {decision.at:%Y-%m-%d %H:%M:%S}, by {decision.actor}\n"
        f"{decision.sentence}{why}\n"
    )
    for line in gate_lines(decision.gates):
        sys.stdout.write(f"  {line}\n")


def gate_lines(gates: Iterable[Arithmetic]) -> Iterator[str]:
    """What was compared at each gate, in one line or more."""
    known = tuple(gates)
    width = max((len(gate.gate) for gate in known), default=0)
    for gate in known:
        yield from _lines(gate, width)


def _lines(gate: Arithmetic, width: int) -> Iterator[str]:
    counts = " against ".join(side for side in (gate.candidate, gate.baseline) if side)
    told = ", ".join(part for part in (counts, gate.measured, gate.limit) if part)
    is_counted = gate.samples > 0
    yield f"{gate.gate:<{width}}  {gate.verdict:<12}  {told if is_counted else gate.reason}"
    if gate.against and is_counted:
        yield f"{'':<{width}}  to fail       {gate.against}"
        yield f"{'':<{width}}  to pass       {gate.in_favour}"
    if gate.clusters and is_counted:
        yield f"{'':<{width}}  {gate.clusters}"
    if gate.for_reading and is_counted:
        yield f"{'':<{width}}  for reading   {gate.for_reading}"
