"""How a model's rollout stands, as data; `tree` draws it for people."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from cluster.config import StrictModel
from cluster.state.tables import RolloutRow
from serve_apps import endpoints
from serve_apps.endpoints import EndpointVersion
from serve_apps.rollout import propagation, records
from serve_apps.rollout.judged_view import JudgedView, judged_view
from serve_apps.rollout.propagation import Followed

IDLE = "idle"


class Happening(StrictModel):
    """One event as `status` shows it."""

    at: datetime
    sentence: str
    actor: str
    reason: str


class RolloutStatus(StrictModel):
    """A model's newest rollout, its versions with weights wanted and live replicas, its last events.

    `phase` is `idle` and the rollout's fields are None where there has been none. `judged` is None where
    people move the weight. `taken_back`: how gateways followed the decision to take it back.
    """

    model: str
    phase: str
    reason: str
    rollout: int | None
    candidate: str | None
    weight: float
    revision: int
    updated_at: datetime | None
    read_at: datetime
    versions: tuple[EndpointVersion, ...]
    refusals: dict[str, str]
    judged: JudgedView | None
    taken_back: Followed | None
    events: tuple[Happening, ...]


def status_of(session: Session, model: str, now: datetime, *, last_events: int = 5) -> RolloutStatus:
    """Read the status of one model; `now` is UTC without a zone."""
    rows = records.rollouts(session, model)
    newest: RolloutRow | None = rows[-1] if rows else None
    found = endpoints.endpoint(session, model)
    named = {version.version for version in found.versions if not version.replicas}
    refused = records.newest_refusals(session, model)
    return RolloutStatus(
        model=model,
        phase=newest.phase if newest else IDLE,
        reason=newest.reason if newest else "",
        rollout=newest.id if newest else None,
        candidate=newest.candidate if newest else None,
        weight=newest.weight if newest else 0.0,
        revision=found.revision,
        updated_at=newest.updated_at if newest else None,
        read_at=now,
        versions=found.versions,
        refusals={version: why for version, why in refused.items() if version in named},
        judged=judged_view(session, newest, now) if newest else None,
        taken_back=propagation.taking_back(session, newest) if newest else None,
        events=tuple(
            Happening(at=row.at, sentence=row.sentence, actor=row.actor, reason=row.reason)
            for row in records.events_of(session, model, last_events)
        ),
    )
