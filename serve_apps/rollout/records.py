"""A rollout in the state database: the situation read from it, a decision written to it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from cluster.state import aliases, events, policies, replicas
from cluster.state.tables import DecisionRow, EventRow, RolloutRow, utc_now
from serve_apps.rollout.gate_spec import STORED
from serve_apps.rollout.outside import replicas as outside
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.rollout.states import ACTIVE, Command, Decision, Phase, Reason, RolloutState, Situation


def read_situation(session: Session, model: str) -> Situation:
    """What the database says of `model`; which versions read prompts alike is not its business."""
    policy = policies.get(session, model)
    return Situation(
        model=model,
        policy=policy,
        aliases=aliases.of_model(session, model),
        active=_newest(session, model, RolloutRow.phase.in_([phase.value for phase in ACTIVE])),
        last_change=_newest(
            session,
            model,
            or_(RolloutRow.phase == Phase.PROMOTED.value, RolloutRow.reason == Reason.UNDONE.value),
        ),
        replicas=live_replicas(session, model),
        refusals=newest_refusals(session, model),
        stable_has=_serving_now(session, model, policy.stable) if policy else 0,
    )


def live_replicas(session: Session, model: str) -> dict[str, dict[str, int]]:
    """By version, how many there are in each status."""
    by_version: dict[str, Counter[str]] = {}
    for row in replicas.live(session, model):
        by_version.setdefault(row.version, Counter())[row.status] += 1
    return {version: dict(counts) for version, counts in by_version.items()}


def _serving_now(session: Session, model: str, version: str) -> int:
    rows = outside.there(session, model, version)
    return sum(row.status == replicas.ReplicaStatus.SERVING for row in rows)


def newest_refusals(session: Session, model: str) -> dict[str, str]:
    """Version to the reason of its newest refused replica."""
    refused = sorted(
        (row for row in replicas.everything(session, model) if row.status == replicas.ReplicaStatus.REFUSED),
        key=lambda row: row.seen_at,
    )
    return {row.version: str(row.detail.get("reason", "no reason given")) for row in refused}


def write(
    session: Session,
    command: Command,
    situation: Situation,
    decision: Decision,
    *,
    reason: str,
    actor: str,
    spec: RolloutSpec | None = None,
) -> tuple[int, int]:
    """Store the decision with its inputs, then all that it changes; returns rollout and decision id.

    `spec` comes with a rollout that is judged, when it begins. Raises ConflictError when policy or
    aliases are no longer those of `situation`.
    """
    if decision.replaced is not None:
        _put_rollout(session, situation.model, decision.replaced)
    rollout_id = _put_rollout(session, situation.model, decision.rollout, spec)
    row = DecisionRow(
        rollout_id=rollout_id,
        seq=_next_seq(session, rollout_id),
        command=command.kind,
        inputs={
            "command": command.model_dump(mode="json"),
            "situation": situation.model_dump(mode="json"),
            "actor": actor,
            "reason": reason,
        },
        outcome=decision.model_dump(mode="json"),
    )
    session.add(row)
    session.flush()
    if decision.policy != situation.policy:
        policies.put(session, decision.policy)
    _move_aliases(session, situation.model, decision, reason=reason or decision.sentence, actor=actor)
    events.append(
        session,
        kind=f"rollout.{command.kind}",
        subject=situation.model,
        sentence=decision.sentence,
        reason=reason,
        actor=actor,
        detail={"rollout": rollout_id, "decision": row.id, "revision": decision.policy.revision},
    )
    return rollout_id, row.id


def rollouts(session: Session, model: str | None = None) -> list[RolloutRow]:
    """All rollouts, oldest first."""
    query = select(RolloutRow).order_by(RolloutRow.id)
    if model is not None:
        query = query.where(RolloutRow.model == model)
    return list(session.scalars(query))


def decision_row(session: Session, decision_id: int) -> DecisionRow | None:
    """One stored decision."""
    return session.get(DecisionRow, decision_id)


def events_of(session: Session, model: str, limit: int) -> list[EventRow]:
    """The newest events of a model's rollouts and aliases, oldest of them first."""
    query = (
        select(EventRow)
        .where(or_(EventRow.subject == model, EventRow.subject.startswith(f"{model}@", autoescape=True)))
        .order_by(EventRow.id.desc())
        .limit(limit)
    )
    return list(reversed(session.scalars(query).all()))


def _newest(session: Session, model: str, condition: Any) -> RolloutState | None:
    query = select(RolloutRow).where(RolloutRow.model == model, condition)
    row = session.scalars(query.order_by(RolloutRow.id.desc()).limit(1)).first()
    return None if row is None else state_of(row)


def state_of(row: RolloutRow) -> RolloutState:
    """The row as the machine sees it."""
    return RolloutState(
        id=row.id,
        candidate=row.candidate,
        stable=row.stable,
        phase=Phase(row.phase),
        reason=Reason(row.reason),
        weight=row.weight,
        spec_sha256=row.spec_sha256,
        steps=row.steps,
        step=row.step,
        approved=row.approved,
        awaits_approval=_awaits_approval(row),
    )


def _awaits_approval(row: RolloutRow) -> bool:
    """From the policy as it is stored, so that one which cannot be read may still be ended."""
    if row.spec is None or row.step < 0:
        return False
    steps = row.spec.get("steps", [])
    return row.step < len(steps) and bool(steps[row.step].get("approve"))


def spec_of(row: RolloutRow) -> RolloutSpec | None:
    """The policy of a rollout that is judged."""
    return None if row.spec is None else RolloutSpec.model_validate(row.spec, context=STORED)


def _put_rollout(session: Session, model: str, state: RolloutState, spec: RolloutSpec | None = None) -> int:
    row = session.get(RolloutRow, state.id) if state.id is not None else None
    if row is None:
        row = RolloutRow(model=model, candidate=state.candidate, stable=state.stable, looks=0)
        row.spec = None if spec is None else spec.stored()
        row.spec_sha256, row.steps = state.spec_sha256, state.steps
        session.add(row)
    row.phase, row.reason, row.weight = state.phase.value, state.reason.value, state.weight
    row.step, row.approved, row.updated_at = state.step, state.approved, utc_now()
    session.flush()
    return row.id


def _next_seq(session: Session, rollout_id: int) -> int:
    query = select(func.max(DecisionRow.seq)).where(DecisionRow.rollout_id == rollout_id)
    return (session.scalar(query) or 0) + 1


def _move_aliases(session: Session, model: str, decision: Decision, *, reason: str, actor: str) -> None:
    for move in decision.aliases:
        aliases.move(session, model, move.alias, move.after, expected=move.before, reason=reason, actor=actor)
