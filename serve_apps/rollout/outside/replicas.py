"""What the state database says of a version's replicas: how many were lost, refused, and run."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from cluster.config import StrictModel
from cluster.errors import ConfigError
from cluster.state import losses, replicas
from cluster.state.replicas import ReplicaStatus
from cluster.state.tables import ReplicaRow

MEMORY_UNKNOWN = "no row of a replica holds its memory; `memory_limit_gib` is watched within it"


class ReplicaReading(StrictModel):
    """A version since a time: `restarts` replicas were lost, `refused` did not prove themselves.

    `serving` ones answer now. A replica that stopped in good order counts for nothing.
    """

    restarts: int
    refused: int
    serving: int


def read(session: Session, model: str, version: str, since: datetime) -> ReplicaReading:
    """What the rows say since a time (UTC without a zone).

    An adapter lives and dies with the replicas of its base, so the losses of those are its own.
    """
    rows = [row for row in replicas.everything(session, model) if row.version == version]
    hosts = {row.base or row.version for row in rows} | {version}
    return ReplicaReading(
        restarts=sum(len(losses.lives(session, model, host, since)) for host in hosts),
        refused=sum(row.status == ReplicaStatus.REFUSED and row.seen_at >= since for row in rows),
        serving=sum(_serves(row) for row in rows),
    )


def require_known(metric: str) -> None:
    """Raise ConfigError for a metric that replicas do not tell: a gate on it could never pass."""
    if metric == "memory":
        raise ConfigError(
            f"`memory` cannot be judged: {MEMORY_UNKNOWN}.",
            code="rollout.no_such_metric",
            hint="Set the version's `memory_limit_gib` and judge `restarts`, or ask Prometheus for it.",
        )


def _serves(row: ReplicaRow) -> bool:
    return row.status == ReplicaStatus.SERVING and not replicas.is_stale(row)
