"""What outsiders are told of a rollout: its decisions, each as it was stored."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from cluster.state.database import Database
from cluster.state.tables import DecisionRow, RolloutRow
from serve_apps.rollout import finding_rollouts, records
from serve_apps.rollout.outside.message import Moment
from serve_apps.rollout.reading import Facts
from serve_apps.rollout.states import Decision, RolloutState, percent


def moment_of(facts: Facts) -> Moment:
    """As it stands at a look; it carries the number of the look, since no decision was made."""
    state = facts.state
    return _moment(facts.model, state, facts.id, facts.seq, f"{facts.model}: {state.candidate} is judged")


def moments_after(database: Database, rollout: int, sequence: int) -> Sequence[Moment]:
    """The decisions of a rollout after one of them, in order, from 1, and that another took its place."""
    query = select(DecisionRow).where(DecisionRow.rollout_id == rollout).order_by(DecisionRow.seq)
    with database.snapshot() as session:
        row = session.get(RolloutRow, rollout)
        decisions = [
            (one.seq, Decision.model_validate(one.outcome), one.inputs.get("reason", ""))
            for one in session.scalars(query)
        ]
        successor = None if row is None else finding_rollouts.successor(session, row)
    if row is None:
        return []
    moments = []
    for before, (seq, decision, reason) in zip([None, *decisions], decisions, strict=False):
        if seq <= sequence:
            continue
        why = f" ({reason})" if reason else ""
        moment = _moment(row.model, decision.rollout, rollout, seq, f"{decision.sentence}{why}")
        if before is not None:
            was = before[1].rollout
            changed = {"phase_before": was.phase.value, "weight_before": was.weight}
            moment = moment.model_copy(update=changed)
        moments.append(moment)
    if successor is not None and decisions and decisions[-1][0] >= sequence:
        moments.append(_superseded(row, successor, decisions[-1]))
    return moments


def _superseded(row: RolloutRow, successor: RolloutRow, last: tuple[int, Decision, str]) -> Moment:
    """It was decided of the other rollout, so it has no decision of its own."""
    seq, was = last[0] + 1, last[1].rollout
    event = (
        f"{row.model}: rollout of {row.candidate} taken back from {percent(was.weight)} to 0%, "
        f"superseded by rollout {successor.id} of {successor.candidate}"
    )
    moment = _moment(row.model, records.state_of(row), row.id, seq, event)
    return moment.model_copy(update={"phase_before": was.phase.value, "weight_before": was.weight})


def _moment(model: str, state: RolloutState, rollout: int, sequence: int, event: str) -> Moment:
    return Moment(
        rollout=rollout,
        model=model,
        candidate=state.candidate,
        stable=state.stable,
        phase=state.phase.value,
        step=max(state.step, 0),
        weight=state.weight,
        sequence=sequence,
        event=event,
    )
