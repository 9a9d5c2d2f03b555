"""What a plot of a rollout is made of: weights, decisions and findings over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from cluster.state import looks
from cluster.state.tables import DecisionRow, LookRow
from serve_apps.rollout import finding_rollouts, propagation, records
from serve_apps.rollout.gate_spec import Gate
from serve_apps.rollout.judge.finding import Finding
from serve_apps.rollout.look import Outcome
from serve_apps.rollout.states import Phase


@dataclass(frozen=True, slots=True)
class Mark:
    """A decision; `at` in seconds since the rollout began, `weight` in percent from then on."""

    at: float
    weight: float
    command: str
    sentence: str


@dataclass(frozen=True, slots=True)
class GateTrack:
    """A gate's findings; those of one look are at the same place in `Chart.looked_at`."""

    gate: Gate
    findings: Sequence[Finding]


@dataclass(frozen=True, slots=True)
class LookLine:
    """A look for the table: what it concluded, after how many answers of the candidate."""

    seq: int
    at: float
    answers: int
    step: int
    action: str
    why: str


@dataclass(frozen=True, slots=True)
class Chart:
    """One rollout; times in seconds since `began`, which is UTC."""

    rollout: int
    model: str
    candidate: str
    stable: str
    phase: Phase
    reason: str
    why: str
    began: datetime
    marks: Sequence[Mark]
    looked_at: Sequence[float]
    tracks: Sequence[GateTrack]
    looks: Sequence[LookLine]

    @property
    def ends(self) -> float:
        """When the last thing happened."""
        return max([0.0, *self.looked_at, *(mark.at for mark in self.marks)])


def chart(session: Session, rollout: int) -> Chart:
    """Read it. Raises NotFoundError for an unknown rollout and ConflictError for one moved by hand."""
    row = finding_rollouts.judged(session, rollout)
    spec = records.spec_of(row)
    assert spec is not None
    rows = looks.of_rollout(session, rollout)
    decisions = list(
        session.scalars(
            select(DecisionRow).where(DecisionRow.rollout_id == rollout).order_by(DecisionRow.seq)
        )
    )
    times = [propagation.decided_at(session, decision) for decision in decisions]
    began = min([row.started_at, *times, *(one.at for one in rows)])
    outcomes = [Outcome.model_validate(one.outcome) for one in rows]
    return Chart(
        rollout=rollout,
        model=row.model,
        candidate=row.candidate,
        stable=row.stable,
        phase=Phase(row.phase),
        reason=row.reason,
        why=decisions[-1].inputs.get("reason", "") if decisions else "",
        began=began,
        marks=[_mark(one, at, began) for one, at in zip(decisions, times, strict=True)],
        looked_at=[(one.at - began).total_seconds() for one in rows],
        tracks=[GateTrack(gate, [one.findings[gate.name] for one in outcomes]) for gate in spec.gates],
        looks=_lines(rows, outcomes, began),
    )


def _mark(row: DecisionRow, at: datetime, began: datetime) -> Mark:
    return Mark(
        at=(at - began).total_seconds(),
        weight=row.outcome["rollout"]["weight"],
        command=row.command,
        sentence=row.outcome["sentence"],
    )


def _lines(rows: Sequence[LookRow], outcomes: Sequence[Outcome], began: datetime) -> list[LookLine]:
    lines, answers = [], 0
    for row, outcome in zip(rows, outcomes, strict=True):
        for counted in row.inputs["counted"]:
            answers += counted["candidate"]["counts"].get("requests", 0)
        lines.append(
            LookLine(
                seq=row.seq,
                at=(row.at - began).total_seconds(),
                answers=answers,
                step=row.inputs["signals"]["step"] + 1,
                action=outcome.conclusion.action.value,
                why=outcome.conclusion.why,
            )
        )
    return lines
