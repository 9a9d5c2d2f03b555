"""A replay for people: two courses side by side."""

from __future__ import annotations

import sys
from itertools import zip_longest

from cluster.cli import output
from serve_apps.rollout import quantities
from serve_apps.rollout.conclusion import Action
from serve_apps.rollout.replaying import Comparison, Course, Turn


def show(found: Comparison) -> None:
    """Write it to stdout."""
    sys.stdout.write(f"rollout {found.rollout} of {found.model}:{found.candidate}, {found.looks} looks\n\n")
    rows = zip_longest(_cells(found.happened), _cells(found.other), fillvalue="")
    output.table(["as_it_was", "by_the_other"], [list(row) for row in rows])
    sys.stdout.write(f"\n{found.sentence}\n")
    for note in found.notes:
        sys.stdout.write(f"note: {note}\n")


def _cells(course: Course) -> list[str]:
    return [*(_turn(turn) for turn in course.turns), *([course.stands] if course.stands else [])]


def _turn(turn: Turn) -> str:
    done = {
        Action.ADVANCE: f"step {turn.step + 1} begins",
        Action.PROMOTE: "promoted",
        Action.PAUSE: f"paused at step {turn.step}",
        Action.ROLL_BACK: f"taken back from step {turn.step}",
    }[turn.action]
    gate = f", {turn.gate}" if turn.gate else ""
    return f"{done}: look {turn.look}, {turn.answers:,} answers, {quantities.span(turn.seconds)}{gate}"
