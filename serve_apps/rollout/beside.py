"""A rollout with `baseline: fresh`: which replicas it means, how many it needs, and why none serves."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from cluster.judging import Fresh
from cluster.state import replicas
from cluster.state.replicas import ReplicaStatus
from cluster.state.tables import DecisionRow, ReplicaRow, RolloutRow
from cluster.traffic import HALF
from serve_apps.fresh import fresh
from serve_apps.rollout import records
from serve_apps.rollout.outside import replicas as outside
from serve_apps.rollout.spec import Baseline
from serve_apps.rollout.states import ACTIVE

MOST = "most"
"""In the detail of a replica's row: how many of its version there may be; null for a fixed number."""


def asked(session: Session, row: RolloutRow) -> Fresh | None:
    """What the gateways are told of a rollout; None where all of stable is its baseline."""
    spec = records.spec_of(row)
    if spec is None or spec.baseline is not Baseline.FRESH:
        return None
    query = select(DecisionRow.inputs).where(DecisionRow.rollout_id == row.id, DecisionRow.seq == 1)
    begun = session.scalars(query).first()
    return Fresh(since=row.started_at, others=max(1, begun["situation"].get("stable_has", 0) if begun else 0))


def needed(session: Session, model: str, version: str) -> int:
    """How many replicas the active rollout needs of its stable `version`: 0 where it asks for none.

    Beside those from before it began, as many as the candidate has, while it gets less than half.
    """
    row, wants = _asking(session, model, version)
    if row is None or wants is None:
        return 0
    others = _others(outside.there(session, model, version), wants)
    return others + max(1, len(_serving(session, model, row.candidate)))


def reserved(session: Session, model: str, version: str) -> frozenset[str]:
    """The replicas of `version` that are kept for the active rollout's comparison."""
    row, wants = _asking(session, model, version)
    return frozenset() if row is None or wants is None else _fresh(session, row, wants)


def read(session: Session, row: RolloutRow, wants: Fresh) -> tuple[int, str]:
    """How many fresh replicas of stable serve, and why none does: empty where one does."""
    if found := _fresh(session, row, wants):
        return len(found), ""
    there = outside.there(session, row.model, row.stable)
    return 0, why_none(there, _others(there, wants), stable=row.stable)


def beforehand(session: Session, model: str, stable: str) -> str:
    """Why no fresh replica of `stable` would come, as far as that is known before a rollout; else empty."""
    there = outside.there(session, model, stable)
    return why_not(there, max(1, len(there)), stable=stable)


def why_none(live: Sequence[ReplicaRow], others: int, *, stable: str) -> str:
    """Why none of stable's `live` rows is that of a fresh replica, where it had `others` at the beginning."""
    if reason := why_not(live, others, stable=stable):
        return reason
    coming = sum(row.status != ReplicaStatus.SERVING for row in live)
    return f"{coming} of {stable} on the way" if coming else f"none of {stable} has been started yet"


def why_not(live: Sequence[ReplicaRow], others: int, *, stable: str) -> str:
    """What keeps one from coming, by stable's own settings; empty where nothing does, or is not known."""
    if any(row.base is not None for row in live):
        return f"{stable} is an adapter, and shares the replicas of its base; use `baseline: stable`"
    told = [row.detail[MOST] for row in live if MOST in row.detail]
    if not told or len(live) > others:
        return ""
    most = told[-1]
    if most is None:
        return (
            f"{stable} has a fixed number of replicas, {others}: "
            f"give it an `autoscaling_config` with `max_replicas: {others + 1}` or more"
        )
    if most <= others:
        return f"{stable} has {others} of at most {most} replicas: raise `max_replicas` to {others + 1}"
    return ""


def _asking(session: Session, model: str, version: str) -> tuple[RolloutRow | None, Fresh | None]:
    query = select(RolloutRow).where(
        RolloutRow.model == model,
        RolloutRow.stable == version,
        RolloutRow.phase.in_([phase.value for phase in ACTIVE]),
        RolloutRow.weight < HALF,
    )
    row = session.scalars(query).first()
    return row, asked(session, row) if row is not None else None


def _fresh(session: Session, row: RolloutRow, wants: Fresh) -> frozenset[str]:
    stable = _serving(session, row.model, row.stable)
    # Adapters share their replicas, so none of those is there for one of them.
    serving = {one.replica: one.started_at for one in stable if one.base is None}
    like = len(_serving(session, row.model, row.candidate))
    return fresh(list(serving), serving, wants, like=like)


def _others(there: Sequence[ReplicaRow], wants: Fresh) -> int:
    # One that was on its way when the rollout began is not fresh, nor did it serve then.
    return max(wants.others, sum(row.base is None and row.started_at <= wants.since for row in there))


def _serving(session: Session, model: str, version: str) -> list[ReplicaRow]:
    live = replicas.live(session, model)
    return [row for row in live if row.version == version and row.status == ReplicaStatus.SERVING]
