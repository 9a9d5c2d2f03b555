"""Everything that a look needs, from one snapshot of the state database."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cluster.judging import Fresh
from cluster.state import policies, tallies
from cluster.state.tables import DecisionRow, RolloutRow
from cluster.state.tallies import GatewayTally
from cluster.tally import FRESH
from serve_apps.rollout import beside, records, requirements
from serve_apps.rollout.bookmark import Bookmark, news
from serve_apps.rollout.looks import Counted, Progress, Signals
from serve_apps.rollout.outside import replicas
from serve_apps.rollout.spec import OnFail, RolloutSpec
from serve_apps.rollout.states import ACTIVE, RolloutState, Situation

GATEWAY_SILENT = timedelta(seconds=35)
"""A gateway renews its row each 10 s; one that has not for so long is gone."""


@dataclass(frozen=True, slots=True)
class Facts:
    """A rollout that is judged, at one moment; `seq` is the number of its next look.

    `counted` lies between `read_before` and `bookmark`. `fresh` where the policy has `baseline: fresh`.
    """

    model: str
    state: RolloutState
    spec: RolloutSpec
    seq: int
    progress: Progress
    read_before: Bookmark
    bookmark: Bookmark
    counted: tuple[Counted, ...]
    signals: Signals
    fresh: Fresh | None = None

    @property
    def id(self) -> int:
        """Of the rollout."""
        assert self.state.id is not None
        return self.state.id


def active(session: Session) -> list[int]:
    """Rollouts that are to be looked at, oldest first."""
    query = select(RolloutRow.id).where(
        RolloutRow.phase.in_([phase.value for phase in ACTIVE]), RolloutRow.spec_sha256.is_not(None)
    )
    return list(session.scalars(query.order_by(RolloutRow.id)))


def read(session: Session, rollout: int, now: datetime) -> Facts | None:
    """The facts; None for a rollout that is over."""
    row = session.get(RolloutRow, rollout)
    spec = records.spec_of(row) if row is not None else None
    if row is None or spec is None or row.phase not in [phase.value for phase in ACTIVE]:
        return None
    progress, before = known(row.progress)
    # By revision alone: a row that a clock hides for a while would be forgotten, and then counted again.
    own = tallies.of_model(session, row.model, first=_first_revision(session, rollout))
    fresh = beside.asked(session, row)
    baseline = row.stable if fresh is None else f"{FRESH}{row.stable}"
    counted, bookmark = news(own, before, candidate=row.candidate, baseline=baseline)
    state = records.state_of(row)
    return Facts(
        model=row.model,
        state=state,
        spec=spec,
        seq=row.looks,
        progress=progress,
        read_before=before,
        bookmark=bookmark,
        counted=counted,
        signals=_signals(session, row, state, own, now).model_copy(
            update={**_of_fresh(session, row, fresh), "resumes": _resumes(session, rollout, spec)}
        ),
        fresh=fresh,
    )


def known(stored: dict[str, Any] | None) -> tuple[Progress, Bookmark]:
    """What was stored after the last look."""
    if stored is None:
        return Progress(), Bookmark()
    return Progress.model_validate(stored["progress"]), Bookmark.model_validate(stored["bookmark"])


def to_store(progress: Progress, bookmark: Bookmark) -> dict[str, Any]:
    """The counterpart of `known`."""
    return {"progress": progress.model_dump(mode="json"), "bookmark": bookmark.model_dump(mode="json")}


def gateways(rows: Iterable[GatewayTally], now: datetime) -> dict[str, int]:
    """The newest revision that each gateway routes by, of those that were heard lately."""
    found: dict[str, int] = {}
    for row in rows:
        if row.seen_at >= now - GATEWAY_SILENT:
            found[row.gateway] = max(found.get(row.gateway, 0), row.revision)
    return found


def _signals(
    session: Session, row: RolloutRow, state: RolloutState, own: list[GatewayTally], now: datetime
) -> Signals:
    policy = policies.get(session, row.model)
    reading = replicas.read(session, row.model, row.candidate, row.started_at)
    met = Situation(model=row.model, policy=policy, replicas=records.live_replicas(session, row.model))
    refused = records.newest_refusals(session, row.model).get(row.candidate) if reading.refused else None
    return Signals(
        phase=state.phase,
        step=state.step,
        approved=state.approved,
        weight=state.weight,
        revision=policy.revision if policy else 0,
        gateways=gateways(own, now),
        serving=reading.serving,
        lost=reading.restarts,
        refused=refused,
        memory=reading.memory,
        stable_memory=replicas.memory(session, row.model, row.stable),
        can_go_back=not state.weight or requirements.can_land(met, source=row.candidate, target=row.stable),
    )


def _of_fresh(session: Session, row: RolloutRow, fresh: Fresh | None) -> dict[str, Any]:
    if fresh is None:
        return {}
    found, why_none = beside.read(session, row, fresh)
    return {"fresh": found, "no_fresh": why_none}


def _resumes(session: Session, rollout: int, spec: RolloutSpec) -> int:
    if spec.on_fail is not OnFail.PAUSE:
        return 0
    query = select(func.count()).where(DecisionRow.rollout_id == rollout, DecisionRow.command == "resume")
    return session.scalar(query) or 0


def _first_revision(session: Session, rollout: int) -> int:
    query = select(DecisionRow.outcome).where(DecisionRow.rollout_id == rollout, DecisionRow.seq == 1)
    outcome = session.scalars(query).first()
    return int(outcome["policy"]["revision"]) if outcome else 0
