"""The live traffic policy of a model: read by gateways, written by rollouts."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from cluster.errors import ConflictError
from cluster.judging import Judging
from cluster.refs import STABLE
from cluster.state import aliases
from cluster.state.tables import PolicyRow, utc_now
from cluster.traffic import TrafficPolicy


def get(session: Session, model: str) -> TrafficPolicy | None:
    """The stored policy; before any rollout, everything to `@stable`; None without either."""
    row = session.get(PolicyRow, model)
    if row is not None:
        return TrafficPolicy(
            model=model,
            revision=row.revision,
            stable=row.stable,
            candidate=row.candidate,
            weight=row.weight,
            judging=None if row.judging is None else Judging.model_validate(row.judging),
        )
    stable = aliases.get(session, model, STABLE)
    return TrafficPolicy(model=model, revision=0, stable=stable) if stable else None


def put(session: Session, policy: TrafficPolicy) -> None:
    """Store `policy`; its revision must be the successor of the stored one.

    Raises ConflictError when another command has stored one in between.
    """
    row = session.get(PolicyRow, policy.model, with_for_update=True)
    found = row.revision if row else 0
    if policy.revision != found + 1:
        raise ConflictError(
            f"The traffic policy of `{policy.model}` is at revision {found}, which {policy.revision} "
            "does not follow.",
            code="policy.moved",
            hint=f"Look again (`linnet rollout status {policy.model}`) and repeat the command.",
            retryable=True,
        )
    if row is None:
        row = PolicyRow(model=policy.model)
        session.add(row)
    row.revision, row.stable = policy.revision, policy.stable
    row.candidate, row.weight, row.updated_at = policy.candidate, policy.weight, utc_now()
    # Without what is not asked for, so that gateways of an older version read it too.
    row.judging = (
        None if policy.judging is None else policy.judging.model_dump(mode="json", exclude_none=True)
    )
    session.flush()


def models_with_policy(session: Session) -> list[str]:
    """Models whose policy has been stored."""
    return list(session.scalars(select(PolicyRow.model).order_by(PolicyRow.model)))
