"""Whether a victim was computing when it failed, as far as its last sign of life and the others tell."""

from __future__ import annotations

from dataclasses import dataclass

from train_jobs.formation.crew import Incident, Member
from train_jobs.formation.messages import Beat, Phase


@dataclass(frozen=True)
class Reached:
    """How far all have come: the newest generation that has its state, and the last step taken."""

    generation: int
    step: int


def is_at_work(incident: Incident, reached: Reached) -> bool:
    """Whether the victim had the step after `reached.step` in hand, so that its samples may be to blame.

    Its last sign of life may be older than what it did last: it had gone on since where all had.
    """
    victim, generation = incident.victim, incident.generation
    if victim is None or victim.beat is None:
        return victim is None
    if victim.left_in == generation:
        return False
    has_begun = reached.generation == generation and (
        incident.step > reached.step or _is_past(victim, victim.beat, generation, reached.step)
    )
    return victim.phase is Phase.COMPUTING or has_begun


def _is_past(victim: Member, beat: Beat, generation: int, step: int) -> bool:
    """Whether it was done with what it was last seen doing, since its formation trains."""
    if beat.generation < generation or beat.phase in (Phase.FORMING, Phase.RESTORING):
        return True
    # The others do not wait for one that saves, and seen twice at one thing it was still at that.
    saves = beat.phase is Phase.SAVING and victim.last_beat_at > victim.last_mark_at
    return beat.phase is not Phase.IDLE and not saves and beat.step <= step
