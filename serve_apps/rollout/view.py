"""How a model's rollout stands, as data and as the tree that people read."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from cluster.config import StrictModel
from cluster.state.tables import RolloutRow
from serve_apps import endpoints
from serve_apps.endpoints import EndpointVersion
from serve_apps.rollout import records
from serve_apps.rollout.states import percent

IDLE = "idle"


class Happening(StrictModel):
    """One event as `status` shows it."""

    at: datetime
    sentence: str
    actor: str
    reason: str


class RolloutStatus(StrictModel):
    """A model's newest rollout, its versions with weights wanted and live replicas, its last events.

    `phase` is `idle` and the rollout's fields are None where there has been none.
    """

    model: str
    phase: str
    reason: str
    rollout: int | None
    candidate: str | None
    weight: float
    revision: int
    updated_at: datetime | None
    versions: tuple[EndpointVersion, ...]
    refusals: dict[str, str]
    events: tuple[Happening, ...]


def status_of(session: Session, model: str, *, last_events: int = 5) -> RolloutStatus:
    """Read the status of one model."""
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
        versions=found.versions,
        refusals={version: why for version, why in refused.items() if version in named},
        events=tuple(
            Happening(at=row.at, sentence=row.sentence, actor=row.actor, reason=row.reason)
            for row in records.events_of(session, model, last_events)
        ),
    )


def tree(status: RolloutStatus) -> list[str]:
    """Lines for a terminal: the model, its versions, its last events."""
    width = max((len(version.version) for version in status.versions), default=0)
    lines = [_headline(status)]
    for version in status.versions:
        lines.append(
            f"├── {version.version:<{width}}  {version.role or '-':<9}  {percent(version.weight):>6}  "
            f"{_replicas(version)}"
        )
        if version.version in status.refusals:
            lines.append(f"│   └── refused: {status.refusals[version.version]}")
    lines.append("└── events" if status.events else "└── no events")
    for index, event in enumerate(status.events):
        branch = "└──" if index == len(status.events) - 1 else "├──"
        why = f" ({event.reason})" if event.reason else ""
        lines.append(f"    {branch} {event.at:%Y-%m-%d %H:%M:%S}  {event.sentence}  by {event.actor}{why}")
    return lines


def _headline(status: RolloutStatus) -> str:
    if status.rollout is None:
        return f"{status.model}  {IDLE}, no rollout yet"
    return (
        f"{status.model}  {status.phase} ({status.reason})  rollout {status.rollout}: "
        f"{status.candidate} at {percent(status.weight)}"
    )


def _replicas(version: EndpointVersion) -> str:
    counted = ", ".join(f"{count} {status}" for status, count in sorted(version.replicas.items()))
    return f"replicas: {counted or 'none'}"
