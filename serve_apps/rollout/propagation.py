"""How long gateways took to follow a decision: until the last of them routed by it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import null, select
from sqlalchemy.orm import Session

from cluster.config import StrictModel
from cluster.state.tables import DecisionRow, LookRow, RolloutRow, TallyRow
from serve_apps.rollout.reading import GATEWAY_SILENT
from serve_apps.rollout.states import Phase, Reason

KNOWN_FOR = timedelta(hours=23)
"""Gateways' rows are removed after a day."""
AT_MOST = timedelta(minutes=2)
"""A gateway that has not followed by then is gone."""


@dataclass(frozen=True, slots=True)
class Routing:
    """When a gateway began to route by a revision, and when it was last heard of under it; UTC, no zone."""

    gateway: str
    revision: int
    applied_at: datetime
    seen_at: datetime


class Followed(StrictModel):
    """A decision, and how gateways followed it; times are UTC without a zone.

    `followed` of the `gateways` that were there have; `applied_at` is when the last of these did, `seconds`
    after the decision by the clocks of two hosts. What gateways say is kept for a day;
    how they followed the end of a rollout is kept with it. When the fault began that led to the decision,
    nobody knows.
    """

    decision: int
    decided_at: datetime
    revision: int
    followed: int
    gateways: int
    applied_at: datetime | None
    seconds: float | None


def routings(session: Session, model: str) -> list[Routing]:
    """What the gateways of a model say, without what they counted."""
    columns = (TallyRow.gateway, TallyRow.revision, TallyRow.applied_at, TallyRow.seen_at)
    return [Routing(*row) for row in session.execute(select(*columns).where(TallyRow.model == model))]


def followed(known: Iterable[Routing], decision: int, revision: int, decided_at: datetime) -> Followed:
    """How those that were there when it was decided have come to `revision`, or to a later one."""
    there: set[str] = set()
    reached: dict[str, datetime] = {}
    for row in known:
        if row.revision >= revision:
            reached[row.gateway] = min(row.applied_at, reached.get(row.gateway, row.applied_at))
        elif row.seen_at >= decided_at - GATEWAY_SILENT:
            there.add(row.gateway)
    last = max((at for gateway, at in reached.items() if gateway in there), default=None)
    return Followed(
        decision=decision,
        decided_at=decided_at,
        revision=revision,
        followed=len(there & reached.keys()),
        gateways=len(there),
        applied_at=last,
        seconds=None if last is None else (last - decided_at).total_seconds(),
    )


def taking_back(session: Session, row: RolloutRow) -> Followed | None:
    """Of the decision that took a rollout back; None for one that has not been, or was superseded."""
    if row.followed is not None:
        return Followed.model_validate(row.followed)
    if row.phase != Phase.ROLLED_BACK.value:
        return None
    query = select(DecisionRow).where(DecisionRow.rollout_id == row.id, DecisionRow.command == "rollback")
    decided = session.scalars(query.order_by(DecisionRow.seq.desc()).limit(1)).first()
    if decided is None:
        return None
    revision = int(decided.outcome["policy"]["revision"])
    return followed(routings(session, row.model), decided.id, revision, decided_at(session, decided))


def to_keep(session: Session, now: datetime) -> dict[int, Followed]:
    """By rollout, how its taking back was followed: where that is over and not yet kept with it."""
    query = select(RolloutRow).where(
        RolloutRow.phase == Phase.ROLLED_BACK.value,
        RolloutRow.reason != Reason.SUPERSEDED.value,
        RolloutRow.followed.is_(null()),
        RolloutRow.updated_at >= now - KNOWN_FOR,
    )
    found = {row.id: taking_back(session, row) for row in session.scalars(query)}
    return {rollout: one for rollout, one in found.items() if one is not None and _is_over(one, now)}


def keep(session: Session, rollout: int, found: Followed) -> None:
    """It outlives what gateways say."""
    session.get_one(RolloutRow, rollout).followed = found.model_dump(mode="json")


def _is_over(found: Followed, now: datetime) -> bool:
    return 0 < found.followed == found.gateways or now >= found.decided_at + AT_MOST


def decided_at(session: Session, decision: DecisionRow) -> datetime:
    """When it was made: the time of the look that led to it, else that of the command."""
    at = session.scalars(select(LookRow.at).where(LookRow.decision_id == decision.id)).first()
    return at if at is not None else decision.at


def in_words(found: Followed) -> str:
    """`decided 12:00:01, in force at 2 of 2 gateways 0.42 s later`."""
    begin = f"decided {found.decided_at:%Y-%m-%d %H:%M:%S}"
    if found.seconds is None:
        return f"{begin}, in force at 0 of {found.gateways} gateways" if found.gateways else begin
    return f"{begin}, in force at {found.followed} of {found.gateways} gateways {found.seconds:.2f} s later"
