"""Stored looks done again: by the policy that they were done by, or by another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cluster.state.tables import LookRow
from serve_apps.rollout.conclusion import Action
from serve_apps.rollout.look import Outcome, look
from serve_apps.rollout.looks import LookInputs, Progress
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.rollout.states import Phase


@dataclass(frozen=True, slots=True)
class Redone:
    """One look with what it says now, and what is known after it; `stored` is what it said then."""

    seq: int
    inputs: LookInputs
    progress: Progress
    outcome: Outcome
    stored: Outcome

    @property
    def agrees(self) -> bool:
        """Whether both say the same, to the last digit; how it is worded may differ between releases."""
        return unworded(self.outcome) == unworded(self.stored)


def unworded(outcome: Outcome) -> Outcome:
    """The same without its sentences."""
    findings = {name: found.model_copy(update={"reason": ""}) for name, found in outcome.findings.items()}
    conclusion = outcome.conclusion.model_copy(update={"why": ""})
    return Outcome(findings=findings, conclusion=conclusion)


def redo(spec: RolloutSpec, rows: Iterable[LookRow]) -> Iterator[Redone]:
    """Every look from the first, each on what the one before it knew."""
    progress = Progress()
    for row in rows:
        inputs = LookInputs.model_validate(row.inputs)
        progress, outcome = look(spec, progress, inputs)
        yield Redone(row.seq, inputs, progress, outcome, Outcome.model_validate(row.outcome))


def replay(spec: RolloutSpec, rows: Iterable[LookRow]) -> Iterator[Redone]:
    """What another policy would have decided on the same answers, until it ends the rollout.

    It goes through its own steps by itself; how many answers came at each is what the weights of then
    gave, and whoever had to agree agrees as they did.
    """
    progress, step, phase = Progress(), -1, Phase.PENDING
    for row in rows:
        inputs = LookInputs.model_validate(row.inputs)
        # A pause was a person's, or of the policy that was; this one goes on until it says otherwise.
        signals = inputs.signals.model_copy(
            update={"step": step, "phase": phase, "approved": step, "resumes": 0}
        )
        inputs = inputs.model_copy(update={"signals": signals})
        progress, outcome = look(spec, progress, inputs)
        yield Redone(row.seq, inputs, progress, outcome, Outcome.model_validate(row.outcome))
        match outcome.conclusion.action:
            case Action.ADVANCE:
                step, phase = step + 1, Phase.PROGRESSING
            case Action.PROMOTE | Action.ROLL_BACK | Action.PAUSE:
                return
            case Action.HOLD:
                pass
