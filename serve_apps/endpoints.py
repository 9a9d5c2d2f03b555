"""Who serves what, from the state database alone: endpoints, their versions and replicas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime

from sqlalchemy.orm import Session

from cluster.config import StrictModel
from cluster.refs import CANDIDATE, PREVIOUS, STABLE
from cluster.state import aliases, policies, replicas
from cluster.state.replicas import ReplicaStatus
from cluster.state.tables import ReplicaRow
from serve_apps.standby import proof, standbys

LOST = "lost"
STANDBY = "standby"


class Replica(StrictModel):
    """One replica; `status` is its own word, but for two that the others decide.

    `lost`: it has not been heard of for longer than its lease. `standby`: it serves in the place of
    one that is lost.
    """

    model: str
    version: str
    replica: str
    status: str
    seen: datetime
    detail: str


class EndpointVersion(StrictModel):
    """A version of an endpoint: its share in percent and its live replicas by status."""

    version: str
    role: str
    weight: float
    replicas: dict[str, int]


class Endpoint(StrictModel):
    """A model that is served or has a traffic policy."""

    model: str
    stable: str | None
    candidate: str | None
    revision: int
    versions: tuple[EndpointVersion, ...]


def list_replicas(session: Session, model: str | None = None) -> list[Replica]:
    """All replicas that the database knows, refused and lost ones too."""
    spare = standing_by(replicas.live(session, model))
    rows = replicas.everything(session, model)
    return [_replica(row, spare) for row in rows if not _was_asleep(row)]


def list_endpoints(session: Session) -> list[Endpoint]:
    """Every model with a stored policy or a live replica, by name."""
    names = {*policies.models_with_policy(session), *(row.model for row in replicas.live(session))}
    return [endpoint(session, name) for name in sorted(names)]


def known_models(session: Session) -> list[str]:
    """Models with a policy or any replica row, lost ones too, by name."""
    names = {*policies.models_with_policy(session), *(row.model for row in replicas.everything(session))}
    return sorted(names)


def endpoint(session: Session, model: str) -> Endpoint:
    """One model as it is served; nothing but its name where nothing is known."""
    policy = policies.get(session, model)
    shares = policy.weights() if policy else {}
    roles = _roles(aliases.of_model(session, model))
    counts: dict[str, Counter[str]] = {}
    live = replicas.live(session, model)
    spare = standing_by(live)
    for row in live:
        status = STANDBY if row.replica in spare else row.status
        counts.setdefault(row.version, Counter())[status] += 1
    versions = dict.fromkeys([*shares, *roles, *sorted(counts)])
    return Endpoint(
        model=model,
        stable=policy.stable if policy else None,
        candidate=policy.candidate if policy else None,
        revision=policy.revision if policy else 0,
        versions=tuple(
            EndpointVersion(
                version=version,
                role=roles.get(version, ""),
                weight=shares.get(version, 0.0),
                replicas=dict(counts.get(version, {})),
            )
            for version in versions
        ),
    )


def standing_by(live: Iterable[ReplicaRow]) -> frozenset[str]:
    """Ids of the standbys, as gateways find them, if all that are on their way come."""
    by_version: dict[tuple[str, str], list[ReplicaRow]] = {}
    for row in live:
        by_version.setdefault((row.model, row.version), []).append(row)
    found: frozenset[str] = frozenset()
    for rows in by_version.values():
        proofs = {row.replica: proof(row) for row in rows if row.status == ReplicaStatus.SERVING}
        found |= standbys(proofs, proofs, planned=len(rows))
    return found


def _roles(found: dict[str, str]) -> dict[str, str]:
    return {found[alias]: alias for alias in (PREVIOUS, CANDIDATE, STABLE) if alias in found}


def _replica(row: ReplicaRow, spare: frozenset[str]) -> Replica:
    lost = replicas.is_stale(row) and row.status != ReplicaStatus.REFUSED
    return Replica(
        model=row.model,
        version=row.version,
        replica=row.replica,
        status=LOST if lost else STANDBY if row.replica in spare else row.status,
        seen=row.seen_at,
        detail="; ".join(_detail(row)),
    )


def _was_asleep(row: ReplicaRow) -> bool:
    """The gateways that kept the row are gone; no replica was lost."""
    return row.status == ReplicaStatus.ASLEEP and replicas.is_stale(row)


def _detail(row: ReplicaRow) -> Iterator[str]:
    if row.base is not None:
        yield f"adapter on {row.base}"
    if "until" in row.detail:
        until = datetime.fromisoformat(row.detail["until"])
        yield f"until {until:%H:%M:%S} UTC: {row.detail['reason']}"
    elif "reason" in row.detail:
        yield str(row.detail["reason"])
    elif "proven" in row.detail:
        yield f"{row.detail['proven']} golden answers proven"
    if "user_config" in row.detail:
        yield f"its user_config is refused, the adapters stay as they were: {row.detail['user_config']}"
