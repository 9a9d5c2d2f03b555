"""Which rollout a command means: by its id, or a model's last."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from cluster.errors import ConflictError, NotFoundError
from cluster.state.tables import RolloutRow
from serve_apps.rollout.states import Phase, Reason


def by_id(session: Session, rollout: int, *, model: str | None = None) -> RolloutRow:
    """That rollout. Raises NotFoundError where there is none, or it is of another model."""
    row = session.get(RolloutRow, rollout)
    if row is None or model not in (None, row.model):
        query = select(RolloutRow.id).order_by(RolloutRow.id.desc()).limit(10)
        if model is not None:
            query = query.where(RolloutRow.model == model)
        known = ", ".join(str(found) for found in sorted(session.scalars(query))) or "(none)"
        of = f" of `{model}`" if model else ""
        raise NotFoundError(
            f"There is no rollout {rollout}{of}.",
            code="rollout.unknown",
            hint=f"The last ones{of}: {known}; `linnet rollout list` shows all.",
        )
    return row


def judged(session: Session, rollout: int) -> RolloutRow:
    """That rollout. Raises NotFoundError as `by_id` does, and ConflictError for one that people moved."""
    row = by_id(session, rollout)
    if row.spec is None:
        raise ConflictError(
            f"Rollout {rollout} of `{row.model}` was moved by hand: nobody looked at it.",
            code="rollout.by_hand",
            hint=f"`linnet rollout history {row.model}` shows what was decided.",
        )
    return row


def newest(session: Session, model: str) -> RolloutRow:
    """A model's last rollout. Raises NotFoundError where it has had none."""
    query = select(RolloutRow).where(RolloutRow.model == model).order_by(RolloutRow.id.desc()).limit(1)
    row = session.scalars(query).first()
    if row is None:
        raise NotFoundError(
            f"`{model}` has had no rollout.",
            code="rollout.none",
            hint=f"Start one: linnet rollout start {model}:VERSION --policy FILE.",
        )
    return row


def taken_back(session: Session, model: str) -> RolloutRow:
    """A model's last judged rollout. Raises ConflictError unless it was taken back."""
    query = select(RolloutRow).where(RolloutRow.model == model, RolloutRow.spec_sha256.is_not(None))
    row = session.scalars(query.order_by(RolloutRow.id.desc()).limit(1)).first()
    if row is None or row.phase != Phase.ROLLED_BACK.value:
        found = f"its last one, of {row.candidate}, is {row.phase}" if row else "it has had none"
        raise ConflictError(
            f"No judged rollout of `{model}` can be begun again: {found}.",
            code="rollout.nothing_to_retry",
            hint=f"`linnet rollout status {model}` shows how it stands; `start` begins another.",
        )
    return row


def successor(session: Session, row: RolloutRow) -> RolloutRow | None:
    """The rollout that took the place of a superseded one; None for one that ended otherwise, or has not."""
    if row.reason != Reason.SUPERSEDED.value:
        return None
    query = select(RolloutRow).where(RolloutRow.model == row.model, RolloutRow.id > row.id)
    return session.scalars(query.order_by(RolloutRow.id).limit(1)).first()
